"""A consumer of an ordered group, with unmodified pika.

Usage: group.py STREAM AMQP-URL... Consumes through each URL but the first, beside each other.
Publishes through the first when stdin ends, and prints what it saw as JSON on stdout.
"""

import json
import sys
import time

import pika

KEYS, MESSAGES, PREFETCH, BATCH, PATIENCE = 12, 20, 10, 5, 30


def main(stream, entrance, *exits):
    publisher = pika.BlockingConnection(pika.URLParameters(entrance))
    channel = publisher.channel()
    channel.exchange_declare(stream, exchange_type="x-consistent-hash", durable=True)
    channel.confirm_delivery()
    consumers = [Consumer(stream, url, n) for n, url in enumerate(exits)]
    sys.stdin.read()  # the consumers have their shards
    for n in range(MESSAGES):
        for key in range(KEYS):
            channel.basic_publish(stream, f"key-{key}", str(n).encode(), mandatory=True)
            for c in consumers:
                c.look(0)
    until(lambda: sum(len(c.seen) for c in consumers) >= KEYS * MESSAGES, consumers)
    refused = refusals(publisher, stream)
    channel.exchange_delete(stream)
    until(lambda: all(c.cancelled for c in consumers), consumers)
    print(json.dumps({
        "client": "pika " + pika.__version__,
        "consumers": [c.report() for c in consumers],
        "refused": refused,
    }))
    for c in consumers:
        c.connection.close()
    publisher.close()


def until(done, consumers):
    deadline = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < deadline:
        for c in consumers:
            c.look(0.05)
            c.settle()
    for c in consumers:
        c.settle()


class Consumer:
    """Acks BATCH messages at a time, and gives the first one it gets back, once."""

    def __init__(self, stream, url, number):
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.basic_qos(prefetch_count=PREFETCH)
        self.channel.add_on_cancel_callback(self.on_cancel)
        self.name = f"pika-{number}"
        self.seen, self.tags, self.held, self.most, self.cancelled = [], [], 0, 0, False
        self.returned = None
        self.channel.basic_consume(stream, self.on_message, consumer_tag=self.name,
                                   arguments={"x-group-mode": "ordered"})

    def look(self, seconds):
        self.connection.process_data_events(time_limit=seconds)

    def on_message(self, channel, method, properties, body):
        self.tags.append(method.delivery_tag)
        self.held += 1
        self.most = max(self.most, self.held)
        if self.returned is None:
            self.returned = [method.routing_key, int(body)]
            self.held -= 1
            channel.basic_nack(method.delivery_tag, requeue=True)
            return
        self.seen.append([method.routing_key, int(body), method.redelivered])
        if self.held >= BATCH:
            self.settle()

    def settle(self):
        if self.held and not self.cancelled:
            self.channel.basic_ack(0, multiple=True)
        self.held = 0

    def on_cancel(self, _frame):
        self.cancelled = True

    def report(self):
        return {"name": self.name, "seen": self.seen, "tags": self.tags, "most": self.most,
                "returned": self.returned, "cancelled": self.cancelled}


def refusals(connection, stream):
    """What a consumer is told that expects another mode, and one that wants to be alone."""
    refused = {}
    for name, options in {"mode": {"arguments": {"x-group-mode": "balanced"}}, "exclusive": {"exclusive": True}}.items():
        channel = connection.channel()
        try:
            channel.basic_consume(stream, lambda *_: None, **options)
            channel.close()
            refused[name] = 0
        except pika.exceptions.ChannelClosedByBroker as e:
            refused[name] = e.reply_code
    return refused


if __name__ == "__main__":
    main(*sys.argv[1:])
