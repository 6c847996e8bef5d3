package broker

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const evalTimeout = 30 * time.Second

// User is a user and the permissions it has on one vhost, as regular expressions. An empty one
// matches nothing.
type User struct {
	Name, Password, VHost  string
	Configure, Write, Read string
}

// Ctl runs rabbitmqctl against the node and returns what it printed. It costs half a second of CPU
// time or more; Eval is a hundred times cheaper.
func (n *Node) Ctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(scripts, "rabbitmqctl"), append([]string{"-q", "-n", n.name}, args...)...)
	cmd.Dir, cmd.Env = n.dir, n.environment()
	out, err := run(ctx, cmd)
	if err != nil {
		return "", fmt.Errorf("broker: rabbitmqctl %s on %s: %w", strings.Join(args, " "), n.name, err)
	}
	return out, nil
}

// Eval evaluates an Erlang expression, without the final dot, inside the node and returns its value
// as Erlang writes it. It is for small values: one beyond 64 KiB of text is an error.
func (n *Node) Eval(ctx context.Context, expr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, evalTimeout)
	defer cancel()
	cmd := exec.Command("erl_call", "-R", "-address", n.dist.addr(), "-e")
	cmd.Dir, cmd.Env = n.dir, n.home.environment()
	cmd.Stdin = strings.NewReader(`lists:flatten(io_lib:format("~0p", [begin ` + expr + ` end])).` + "\n")
	out, err := run(ctx, cmd)
	if err != nil {
		return "", fmt.Errorf("broker: eval on %s: %w", n.name, err)
	}
	value, quoted := strings.CutPrefix(out, `{ok, "`)
	value, closed := strings.CutSuffix(value, `"}`)
	if !quoted || !closed {
		return "", fmt.Errorf("broker: eval on %s: %.2000s", n.name, out)
	}
	return value, nil
}

// Sync makes everything declared so far survive a Kill. RabbitMQ answers a durable declare before the
// decision to commit it is on disk, and a kill within the next two seconds undoes the declare, along
// with all confirmed messages in the queue.
func (n *Node) Sync(ctx context.Context) error {
	_, err := n.Eval(ctx, "ok = mnesia:sync_log()")
	return err
}

// PutVHost creates a vhost unless it exists and gives guest all permissions on it.
func (n *Node) PutVHost(ctx context.Context, name string) error {
	guest := User{Name: "guest", VHost: name, Configure: ".*", Write: ".*", Read: ".*"}
	_, err := n.Eval(ctx, fmt.Sprintf("ok = rabbit_vhost:add(%s, <<>>), %s",
		binary(name), setPermissions(guest)))
	return err
}

func (n *Node) deleteVHost(ctx context.Context, name string) error {
	_, err := n.Eval(ctx, fmt.Sprintf("rabbit_vhost:delete(%s, <<>>)", binary(name)))
	return err
}

// PutUser creates a user, or gives an existing one this password, and sets its permissions.
func (n *Node) PutUser(ctx context.Context, u User) error {
	_, err := n.Eval(ctx, fmt.Sprintf("ok = rabbit_auth_backend_internal:put_user("+
		"#{name => %s, password => %s, tags => <<>>}, <<>>), %s",
		binary(u.Name), binary(u.Password), setPermissions(u)))
	return err
}

func setPermissions(u User) string {
	return fmt.Sprintf("ok = rabbit_auth_backend_internal:set_permissions(%s, %s, %s, %s, %s, <<>>)",
		binary(u.Name), binary(u.VHost), binary(u.Configure), binary(u.Write), binary(u.Read))
}

// binary writes text as an Erlang binary of byte values, which needs no quoting.
func binary(text string) string {
	values := make([]string, len(text))
	for i := range values {
		values[i] = strconv.Itoa(int(text[i]))
	}
	return "<<" + strings.Join(values, ",") + ">>"
}
