"""Rounds of publish, consume, get and refuse on a stream, with unmodified pika.

Usage: rounds.py AMQP-URL STREAM. Prints what it saw as JSON on stdout.
"""

import json
import sys
import time

import pika

ROUNDS, CONSUMED, GOT, PATIENCE = 3, 100, 40, 20

PROPERTIES = pika.BasicProperties(
    content_type="text/plain",
    content_encoding="utf-8",
    headers={"text": "ü", "number": -5, "yes": True, "list": ["a", 1], "table": {"deep": "b"}},
    delivery_mode=2,
    priority=3,
    correlation_id="c-1",
    reply_to="amq.direct",
    expiration="3600000",
    message_id="m-1",
    timestamp=1234567890,
    type="kind",
    user_id="guest",
    app_id="app",
)


def main(url, stream):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    rounds = [run_round(connection, stream, n) for n in range(ROUNDS)]
    connection.close()
    print(json.dumps({"client": "pika " + pika.__version__, "rounds": rounds}))


def run_round(connection, stream, n):
    channel = connection.channel()
    channel.exchange_declare(stream, exchange_type="x-modulus-hash", durable=True)
    channel.confirm_delivery()  # from here on publishes raise unless they are acked
    confirmed = publish(channel, stream, f"consume-{n}", CONSUMED)
    seen = {"passive": passive(channel, stream)}
    seen["consumed"] = consume(connection, channel, stream)
    confirmed += publish(channel, stream, f"get-{n}", GOT)
    seen["got"] = get_all(channel, stream)
    channel.basic_publish(stream, "a key", b"with properties", PROPERTIES, mandatory=True)
    seen["message"] = get_one(channel, stream)
    seen["confirmed"] = confirmed + 1
    seen["refused"] = refusals(connection, stream)
    seen["after"] = passive(channel, stream)  # on the first channel, which lives on
    channel.close()
    return seen


def publish(channel, stream, prefix, count):
    for i in range(count):
        channel.basic_publish(stream, f"key-{i}", f"{prefix}-{i}".encode(), mandatory=True)
    return count


def passive(channel, stream):
    ok = channel.queue_declare(stream, passive=True).method
    return {"queue": ok.queue, "messages": ok.message_count, "consumers": ok.consumer_count}


def consume(connection, channel, stream):
    bodies = []

    def on_message(channel, method, _properties, body):
        bodies.append(body.decode())
        channel.basic_ack(method.delivery_tag)

    tags = [channel.basic_consume(stream, on_message) for _ in range(2)]
    deadline = time.monotonic() + PATIENCE
    while len(bodies) < CONSUMED and time.monotonic() < deadline:
        connection.process_data_events(time_limit=1)
    for tag in tags:
        channel.basic_cancel(tag)
    return bodies


def get_all(channel, stream):
    bodies = []
    while True:
        method, _properties, body = channel.basic_get(stream)
        if method is None:
            return bodies
        bodies.append(body.decode())
        channel.basic_ack(method.delivery_tag)


def get_one(channel, stream):
    method, properties, body = channel.basic_get(stream, auto_ack=True)
    message = {name: value for name, value in vars(properties).items() if value is not None}
    message.update(exchange=method.exchange, routing_key=method.routing_key, body=body.decode())
    return message


def refusals(connection, stream):
    attempts = {
        "queue.declare": lambda channel: channel.queue_declare(stream, durable=True),
        "queue.bind": lambda channel: channel.queue_bind(stream, "amq.fanout"),
        "queue.unbind": lambda channel: channel.queue_unbind(stream, "amq.fanout"),
        "queue.purge": lambda channel: channel.queue_purge(stream),
        "queue.delete": lambda channel: channel.queue_delete(stream),
    }
    refused = {}
    for name, attempt in attempts.items():
        channel = connection.channel()
        try:
            attempt(channel)
            channel.close()
            refused[name] = {"code": 0, "text": "accepted"}
        except pika.exceptions.ChannelClosedByBroker as e:
            refused[name] = {"code": e.reply_code, "text": e.reply_text}
    return refused


if __name__ == "__main__":
    main(*sys.argv[1:])
