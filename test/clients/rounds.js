// Rounds of publish, consume, get and refuse on a stream, with unmodified amqplib.
//
// Usage: rounds.js AMQP-URL STREAM. Prints what it saw as JSON on stdout.
'use strict';

const amqp = require('amqplib');
const { version } = require('./node_modules/amqplib/package.json');

const ROUNDS = 3, CONSUMED = 100, GOT = 40, PATIENCE = 20_000;

const PROPERTIES = {
  contentType: 'text/plain',
  contentEncoding: 'utf-8',
  headers: { text: 'ü', number: -5, yes: true, list: ['a', 1], table: { deep: 'b' } },
  deliveryMode: 2,
  priority: 3,
  correlationId: 'c-1',
  replyTo: 'amq.direct',
  expiration: '3600000',
  messageId: 'm-1',
  timestamp: 1234567890,
  type: 'kind',
  userId: 'guest',
  appId: 'app',
};

async function main(url, stream) {
  // Without noDelay each get after an ack waits 40 ms, with or without a proxy.
  const connection = await amqp.connect(url, { noDelay: true });
  const rounds = [];
  for (let n = 0; n < ROUNDS; n++) rounds.push(await runRound(connection, stream, n));
  await connection.close();
  console.log(JSON.stringify({ client: `amqplib ${version}`, rounds }));
}

async function runRound(connection, stream, n) {
  const channel = await connection.createConfirmChannel();
  await channel.assertExchange(stream, 'x-modulus-hash', { durable: true });
  const seen = { confirmed: await publish(channel, stream, `consume-${n}`, CONSUMED) };
  seen.passive = await passive(channel, stream);
  seen.consumed = await consume(channel, stream);
  seen.confirmed += await publish(channel, stream, `get-${n}`, GOT);
  seen.got = await getAll(channel, stream);
  channel.publish(stream, 'a key', Buffer.from('with properties'), { mandatory: true, ...PROPERTIES });
  await channel.waitForConfirms();
  seen.confirmed++;
  seen.message = await getOne(channel, stream);
  seen.refused = await refusals(connection, stream);
  seen.after = await passive(channel, stream); // on the first channel, which lives on
  await channel.close();
  return seen;
}

async function publish(channel, stream, prefix, count) {
  let confirmed = 0;
  for (let i = 0; i < count; i++) {
    channel.publish(stream, `key-${i}`, Buffer.from(`${prefix}-${i}`), { mandatory: true }, (err) => {
      if (!err) confirmed++;
    });
  }
  await channel.waitForConfirms();
  return confirmed;
}

async function passive(channel, stream) {
  const { queue, messageCount, consumerCount } = await channel.checkQueue(stream);
  return { queue, messages: messageCount, consumers: consumerCount };
}

async function consume(channel, stream) {
  const bodies = [], tags = [];
  const { promise: all, resolve } = deferred();
  const late = setTimeout(resolve, PATIENCE);
  for (let i = 0; i < 2; i++) {
    const { consumerTag } = await channel.consume(stream, (message) => {
      bodies.push(message.content.toString());
      channel.ack(message);
      if (bodies.length >= CONSUMED) resolve();
    });
    tags.push(consumerTag);
  }
  await all;
  clearTimeout(late);
  for (const tag of tags) await channel.cancel(tag);
  return bodies;
}

function deferred() {
  const d = {};
  d.promise = new Promise((resolve) => { d.resolve = resolve; });
  return d;
}

async function getAll(channel, stream) {
  const bodies = [];
  for (let message; (message = await channel.get(stream)); ) {
    bodies.push(message.content.toString());
    channel.ack(message);
  }
  return bodies;
}

async function getOne(channel, stream) {
  const { content, fields, properties: p } = await channel.get(stream, { noAck: true });
  return {
    body: content.toString(), exchange: fields.exchange, routing_key: fields.routingKey,
    content_type: p.contentType, content_encoding: p.contentEncoding, headers: p.headers,
    delivery_mode: p.deliveryMode, priority: p.priority, correlation_id: p.correlationId,
    reply_to: p.replyTo, expiration: p.expiration, message_id: p.messageId, timestamp: p.timestamp,
    type: p.type, user_id: p.userId, app_id: p.appId,
  };
}

async function refusals(connection, stream) {
  const attempts = {
    'queue.declare': (channel) => channel.assertQueue(stream, { durable: true }),
    'queue.bind': (channel) => channel.bindQueue(stream, 'amq.fanout', ''),
    'queue.unbind': (channel) => channel.unbindQueue(stream, 'amq.fanout', ''),
    'queue.purge': (channel) => channel.purgeQueue(stream),
    'queue.delete': (channel) => channel.deleteQueue(stream),
  };
  const refused = {};
  for (const [name, attempt] of Object.entries(attempts)) {
    const channel = await connection.createChannel();
    channel.on('error', () => {}); // it comes as the rejection, too
    try {
      await attempt(channel);
      await channel.close();
      refused[name] = { code: 0, text: 'accepted' };
    } catch (e) {
      refused[name] = { code: e.code, text: e.message };
    }
  }
  return refused;
}

main(...process.argv.slice(2)).catch((e) => {
  console.error(e);
  process.exit(1);
});
