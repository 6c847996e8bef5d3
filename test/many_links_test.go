package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// TestManyWithoutLinks: where no link may be opened a cluster carries messages for other
// nodes' shards by the client's own broker; brokers apart can't, and the client is told why.
func TestManyWithoutLinks(t *testing.T) { both(t, testManyWithoutLinks) }

func testManyWithoutLinks(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 1, "limits: {max-links-per-session: 0}")
	const stream = "shard.home"
	m.declare(0, stream)
	predicted := predict(stream, manyKeys, m.plain(stream, 1, 0, 1, 2))
	if !m.apart {
		m.publish(0, stream, manyKeys, "by home")
		wantAt(t, predicted, m.where(stream))
		return
	}
	own := fmt.Sprintf(" - %s - ", m.brokers[0].Name())
	for key, queue := range predicted {
		if strings.Contains(queue, own) {
			continue
		}
		// Until the proxy has asked its broker it takes the others for its cluster's.
		daemon.Eventually(t, 5*time.Second, func() error {
			ch := m.channel(0)
			streamConfirm(t, ch)
			closed := ch.NotifyClose(make(chan *amqp.Error, 1))
			c, err := ch.PublishWithDeferredConfirm(stream, key, false, false, amqp.Publishing{})
			sessionMust(t, err)
			select {
			case <-c.Done():
				return fmt.Errorf("%s is settled: %v", key, c.Acked())
			case e := <-closed:
				if e == nil || e.Code != amqp.AccessRefused || !strings.Contains(e.Reason, "max-links-per-session") {
					t.Fatalf("%s: %v", key, e)
				}
				return nil
			}
		})
		return
	}
}

// linksOf reads how many publish links proxy i has.
func (m *many) linksOf(i int) (links int) {
	m.t.Helper()
	_, metrics := m.proxies[i].Get("/metrics")
	_, after, _ := strings.Cut(metrics, "\namqproxy_publish_links ")
	if _, err := fmt.Sscan(after, &links); err != nil {
		m.t.Fatal("no figure of the links: ", err)
	}
	return links
}

// TestManyMaxLinks: over max-links, which holds for all sessions of a proxy, a cluster
// carries the rest by the home link.
func TestManyMaxLinks(t *testing.T) {
	m := startMany(t, inCluster, 1, "limits: {max-links: 3}")
	const stream = "shard.max"
	m.declare(0, stream)
	for range 3 { // each wants two
		ch := m.channel(0)
		streamConfirm(t, ch)
		for k := range manyKeys {
			c, err := ch.PublishWithDeferredConfirm(stream, key(k), false, false, amqp.Publishing{DeliveryMode: amqp.Persistent})
			sessionMust(t, err)
			if k%50 == 0 && !c.Wait() {
				t.Errorf("%s is nacked", key(k))
			}
		}
		sessionMust(t, ch.Close())
	}
	if links := m.linksOf(0); links != 3 {
		t.Errorf("%d links are open, want 3", links)
	}
	found := m.spread(m.plain(stream, 1, 0, 1, 2))
	for k, queue := range predict(stream, manyKeys, m.plain(stream, 1, 0, 1, 2)) {
		if found[k][queue] != 3 {
			t.Errorf("%s is %d times in %s", k, found[k][queue], queue)
		}
	}
}
