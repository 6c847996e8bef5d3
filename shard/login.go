package shard

// Login is a name and password for a broker.
type Login struct {
	User     string
	Password Password
}

// Password is a secret that printing, logging and JSON show as asterisks.
type Password string

const masked = "***"

func (p Password) String() string               { return masked }
func (p Password) GoString() string             { return masked }
func (p Password) MarshalText() ([]byte, error) { return []byte(masked), nil }
