package broker

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestOutages: a node is paused, killed, restarted and stopped, one after the other.
func TestOutages(t *testing.T) {
	n := ForTest(t, Options{})
	url := n.URL(n.VHost(t))
	t.Run("pause", func(t *testing.T) { testPause(t, n, url) })
	t.Run("kill", func(t *testing.T) { testKill(t, n, url) })
	t.Run("stop", func(t *testing.T) { testStop(t, n, url) })
}

func testKill(t *testing.T, n *Node, url string) {
	publish(t, url, "survivor")
	if err := n.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.Kill()
	if _, err := amqp.Dial(url); err == nil {
		t.Fatal("a killed node still serves AMQP")
	}
	if err := n.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantMessage(t, url, "survivor")
}

func testStop(t *testing.T, n *Node, url string) {
	publish(t, url, "kept")
	if err := n.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantMessage(t, url, "kept")
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log := n.LogTail(); !strings.Contains(log, "msg_store_persistent' is stopped") {
		t.Errorf("the stop was not orderly:\n%s", log)
	}
	if err := n.Stop(t.Context()); err == nil {
		t.Error("a stopped node stopped again without an error")
	}
	if err := n.Pause(); err == nil {
		t.Error("a stopped node paused without an error")
	}
}

func testPause(t *testing.T, n *Node, url string) {
	if err := n.Pause(); err != nil {
		t.Fatal(err)
	}
	if n.servesAMQP(t.Context()) {
		t.Error("a paused node answers")
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := n.Eval(short, "ok"); err == nil {
		t.Error("a paused node evaluates")
	}
	if err := n.Resume(); err != nil {
		t.Fatal(err)
	}
	if !n.servesAMQP(t.Context()) {
		t.Error("a resumed node doesn't answer")
	}
	publish(t, url, "after the pause")
	wantMessage(t, url, "after the pause")
}

func TestUsersVHostsAndCommands(t *testing.T) {
	n := ForTest(t, Options{Plugins: []string{"rabbitmq_management"}, Config: "channel_max = 77"})
	vhost := n.VHost(t)
	reader := User{Name: "ré/der", Password: "p@ss:wörd", VHost: vhost, Read: "^open"}
	n.AddUser(t, User{Name: reader.Name, Password: "another", VHost: vhost})
	n.AddUser(t, reader)

	conn, err := amqp.Dial(n.UserURL(reader.Name, reader.Password, vhost))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.Config.ChannelMax; got != 77 {
		t.Errorf("channel_max of Options.Config: got %d", got)
	}
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("open", false, false, false, false, nil); err == nil {
		t.Error("a user without configure permission declared a queue")
	}
	if listed, err := n.Ctl(t.Context(), "list_vhosts"); err != nil || !strings.Contains(listed, vhost) {
		t.Errorf("list_vhosts: %q, %v", listed, err)
	}
	if _, err := n.Ctl(t.Context(), "no_such_command"); err == nil {
		t.Error("an unknown command is no error")
	}
	if got, err := n.Eval(t.Context(), `{<<"a\"b">>, 1 + 1}`); err != nil || got != `{<<"a\"b">>,2}` {
		t.Errorf("eval: %q, %v", got, err)
	}
	if _, err := n.Eval(t.Context(), "ok = no"); err == nil {
		t.Error("a failing expression is no error")
	}
	if _, err := run(t.Context(), exec.Command("bash", "-c", "exec 3<>/dev/tcp/"+
		strings.Replace(n.PluginAddr("rabbitmq_management"), ":", "/", 1))); err != nil {
		t.Errorf("management listener: %v", err)
	}
}

func TestCluster(t *testing.T) {
	nodes := ClusterForTest(t, 3, Options{})
	vhost := nodes[0].VHost(t)
	publish(t, nodes[2].URL(vhost), "clustered")
	nodes[1].Kill()
	wantMessage(t, nodes[0].URL(vhost), "clustered")
	if err := nodes[1].Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := awaitMembers(t.Context(), nodes); err != nil {
		t.Fatal(err)
	}
}

func TestFailedBootReportsTheLog(t *testing.T) {
	_, err := Start(t.Context(), Options{Config: "no.such.key = 1"})
	if err == nil || !strings.Contains(err.Error(), "no.such.key") {
		t.Fatalf("want an error with the log's tail, got %v", err)
	}
}

func TestMissingRabbitMQSaysHowToInstallIt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Start(t.Context(), Options{})
	if err == nil || !strings.Contains(err.Error(), "apt-get install rabbitmq-server") {
		t.Fatalf("got %v", err)
	}
}

func TestDirOutlivesClose(t *testing.T) {
	o := Options{Name: "again", Dir: t.TempDir()}
	n, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, n.URL("/"), "on disk")
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = ForTest(t, o)
	wantMessage(t, n.URL("/"), "on disk")
}

func TestCloseLeavesNothing(t *testing.T) {
	n, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := n.home.dir
	if got := processesOf(t, dir); !slices.Contains(got, "beam.smp") || !slices.Contains(got, "epmd") {
		t.Fatalf("processesOf finds only %q: this test would prove nothing", got)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range processesOf(t, dir) {
		if name == "beam.smp" || name == "epmd" {
			t.Errorf("%s is still there right after Close", name)
		}
	}
	wantNoProcesses(t, dir)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("temporary directory: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := n.Boot(t.Context()); err == nil {
		t.Error("a closed node boots")
	}
}

// TestKilledProgramLeavesNothing runs itself as the program that starts a node and is killed.
func TestKilledProgramLeavesNothing(t *testing.T) {
	const child = "BROKER_TEST_CHILD_DIR"
	if dir := os.Getenv(child); dir != "" {
		_, err := Start(t.Context(), Options{Dir: dir})
		fmt.Println("started:", err)
		select {}
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProgramLeavesNothing$")
	cmd.Env = append(os.Environ(), child+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	running := len(processesOf(t, dir))
	cmd.Process.Kill()
	cmd.Wait()
	if line != "started: <nil>\n" || running == 0 {
		t.Fatalf("the program said %q and had %d processes", line, running)
	}
	wantNoProcesses(t, dir)
}

func TestReservedPortsDiffer(t *testing.T) {
	seen := make(map[int]bool)
	for range 100 {
		p, err := reservePort()
		if err != nil {
			t.Fatal(err)
		}
		defer p.release()
		if seen[p.number] {
			t.Fatalf("port %d twice", p.number)
		}
		seen[p.number] = true
	}
}

// publish sends one persistent message to the durable queue "q" and waits for its confirm.
func publish(t *testing.T, url, body string) {
	t.Helper()
	conn, ch := open(t, url)
	defer conn.Close()
	if _, err := ch.QueueDeclare("q", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)}
	confirm, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), "", "q", true, false, message)
	if err != nil {
		t.Fatal(err)
	}
	if acked, err := confirm.WaitContext(t.Context()); err != nil || !acked {
		t.Fatalf("confirm: %v, %v", acked, err)
	}
}

func wantMessage(t *testing.T, url, body string) {
	t.Helper()
	conn, ch := open(t, url)
	defer conn.Close()
	message, ok, err := ch.Get("q", true)
	if err != nil || !ok || string(message.Body) != body {
		t.Fatalf("get: %q, %v, %v; want %q", message.Body, ok, err, body)
	}
}

func open(t *testing.T, url string) (*amqp.Connection, *amqp.Channel) {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		conn.Close()
		t.Fatal(err)
	}
	return conn, ch
}

func wantNoProcesses(t *testing.T, home string) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(10 * time.Second)
	for {
		left := processesOf(t, home)
		if len(left) == 0 {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("still running: %v", left)
		}
	}
}

// processesOf names the living processes, of whatever parent and group, whose HOME this is.
func processesOf(t *testing.T, home string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		env, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if strings.Contains("\x00"+string(env), "\x00HOME="+home+"\x00") {
			name, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "comm"))
			names = append(names, strings.TrimSpace(string(name)))
		}
	}
	return names
}
