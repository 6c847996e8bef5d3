// A consumer of an ordered group, with unmodified amqplib.
//
// Usage: group.js STREAM AMQP-URL... Consumes through each URL but the first, beside each other.
// Publishes through the first when stdin ends, and prints what it saw as JSON on stdout.
'use strict';

const { once } = require('node:events');
const amqp = require('amqplib');
const { version } = require('./node_modules/amqplib/package.json');

const KEYS = 12, MESSAGES = 20, PREFETCH = 10, BATCH = 5, PATIENCE = 30_000;

async function main(stream, entrance, ...exits) {
  const publisher = await amqp.connect(entrance, { noDelay: true });
  const channel = await publisher.createConfirmChannel();
  await channel.assertExchange(stream, 'x-consistent-hash', { durable: true });
  const consumers = [];
  for (const [n, url] of exits.entries()) consumers.push(await newConsumer(stream, url, n));
  await once(process.stdin.resume(), 'end'); // the consumers have their shards
  for (let n = 0; n < MESSAGES; n++) {
    for (let key = 0; key < KEYS; key++) {
      channel.publish(stream, `key-${key}`, Buffer.from(String(n)), { mandatory: true });
    }
  }
  await channel.waitForConfirms();
  await until(() => consumers.reduce((sum, c) => sum + c.seen.length, 0) >= KEYS * MESSAGES, consumers);
  const refused = await refusals(publisher, stream);
  await channel.deleteExchange(stream);
  await until(() => consumers.every((c) => c.cancelled), consumers);
  console.log(JSON.stringify({
    client: `amqplib ${version}`, refused,
    consumers: consumers.map(({ name, seen, tags, most, returned, cancelled }) => ({ name, seen, tags, most, returned, cancelled })),
  }));
  for (const c of consumers) await c.connection.close();
  await publisher.close();
}

async function until(done, consumers) {
  for (const end = Date.now() + PATIENCE; !done() && Date.now() < end; ) {
    await new Promise((resolve) => { setTimeout(resolve, 20); });
    for (const c of consumers) c.settle();
  }
}

// newConsumer acks BATCH messages at a time, and gives the first one it gets back, once.
async function newConsumer(stream, url, number) {
  const connection = await amqp.connect(url, { noDelay: true });
  const channel = await connection.createChannel();
  const c = { connection, name: `amqplib-${number}`, seen: [], tags: [], held: 0, most: 0, returned: null, cancelled: false };
  c.settle = () => {
    if (c.held > 0 && !c.cancelled) channel.ackAll();
    c.held = 0;
  };
  await channel.prefetch(PREFETCH);
  await channel.consume(stream, (message) => {
    if (message === null) {
      c.cancelled = true;
      return;
    }
    const { deliveryTag, routingKey, redelivered } = message.fields;
    const number = Number(message.content.toString());
    c.tags.push(deliveryTag);
    c.most = Math.max(c.most, ++c.held);
    if (c.returned === null) {
      c.returned = [routingKey, number];
      c.held--;
      channel.nack(message, false, true);
      return;
    }
    c.seen.push([routingKey, number, redelivered]);
    if (c.held >= BATCH) c.settle();
  }, { consumerTag: c.name, arguments: { 'x-group-mode': 'ordered' } });
  return c;
}

// refusals are what a consumer is told that expects another mode, and one that wants to be
// alone.
async function refusals(connection, stream) {
  const attempts = { mode: { arguments: { 'x-group-mode': 'balanced' } }, exclusive: { exclusive: true } };
  const refused = {};
  for (const [name, options] of Object.entries(attempts)) {
    const channel = await connection.createChannel();
    channel.on('error', () => {}); // it comes as the rejection, too
    try {
      await channel.consume(stream, () => {}, options);
      await channel.close();
      refused[name] = 0;
    } catch (e) {
      refused[name] = e.code;
    }
  }
  return refused;
}

main(...process.argv.slice(2)).catch((e) => {
  console.error(e);
  process.exit(1);
});
