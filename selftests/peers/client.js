// SPDX-License-Identifier: GPL-2.0
// Node's `ws` as a client. Each line of its input is a scenario as JSON, [URL, SCENARIO, ARGUMENT], run one after the other; each
// line of its output is "ok" when that held, or what went wrong, as JSON.
'use strict';

const crypto = require('crypto');
const readline = require('readline');
const WebSocket = require('ws');

// Of the scenario that is run.
let url;
let argument;

function open(protocols, options) {
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(url, protocols || [], { perMessageDeflate: false, maxPayload: 32 << 20, ...options });
    ws.inbox = [];
    ws.waiting = [];
    ws.on('message', (data, binary) => {
      const take = ws.waiting.shift();
      if (take) take({ data, binary });
      else ws.inbox.push({ data, binary });
    });
    ws.closed = new Promise((done) => ws.on('close', (code, reason) => done({ code, reason: reason.toString() })));
    ws.on('open', () => resolve(ws));
    ws.on('error', reject);
  });
}

function receive(ws) {
  if (ws.inbox.length) return Promise.resolve(ws.inbox.shift());
  return new Promise((resolve) => ws.waiting.push(resolve));
}

function equal(got, wanted, what) {
  if (got !== wanted) throw new Error(`${what}: got ${got}, wanted ${wanted}`);
}

async function same(ws, data, binary, what) {
  const answer = await receive(ws);
  equal(answer.binary, binary, `${what}: kind`);
  if (!answer.data.equals(Buffer.from(data))) throw new Error(`${what}: another content came back`);
}

const scenarios = {
  // ARGUMENT: sizes in bytes, separated by commas.
  async echo() {
    const ws = await open();
    for (const size of argument.split(',').map(Number)) {
      const binary = crypto.randomBytes(size);
      ws.send(binary);
      await same(ws, binary, true, `${size} B binary`);
      const text = 'ä€x'.repeat(Math.ceil(size / 6)).slice(0, size);
      ws.send(text);
      await same(ws, text, false, `${size} characters of text`);
    }
    ws.close(1000, 'done');
    const end = await ws.closed;
    equal(end.code, 1000, 'close code');
  },
  async fragments() {
    const ws = await open();
    const whole = crypto.randomBytes(100000);
    for (let at = 0; at < whole.length; at += 10000) {
      ws.send(whole.subarray(at, at + 10000), { binary: true, fin: at + 10000 >= whole.length });
      if (at === 50000) ws.ping('between');
    }
    await same(ws, whole, true, 'fragmented message');
    ws.close();
    await ws.closed;
  },
  async ping() {
    const ws = await open();
    const pong = new Promise((resolve) => ws.on('pong', resolve));
    ws.ping('payload');
    equal((await pong).toString(), 'payload', 'pong');
    ws.send('ping me');
    equal((await receive(ws)).data.toString(), 'pong from the server', 'server\'s ping');
    ws.close();
    await ws.closed;
  },
  async close() {
    const ws = await open();
    ws.send(`close ${argument}`);
    const end = await ws.closed;
    equal(end.code, Number(argument), 'close code');
    equal(end.reason, 'as asked', 'close reason');
  },
  async deflate() {
    const ws = await open([], { perMessageDeflate: { threshold: 0 } });
    equal(ws.extensions.split(';')[0], 'permessage-deflate', 'extension');
    const text = 'the same again and '.repeat(20000);
    ws.send(text);
    await same(ws, text, false, 'compressed text');
    ws.close();
    await ws.closed;
  },
  async subprotocol() {
    const ws = await open(argument.split(','));
    equal(ws.protocol, argument.split(',').pop(), 'subprotocol');
    ws.close();
    await ws.closed;
  },
  async refused() {
    await open().then(() => { throw new Error('was accepted'); }, (error) => {
      if (!error.message.includes(argument)) throw error;
    });
  },
  // ARGUMENT: how many tunnels are open at once; each of them echoes while all are open.
  async many() {
    const count = Number(argument);
    const all = [];
    for (let at = 0; at < count; at += 50) {
      const batch = Array.from({ length: Math.min(50, count - at) }, () => open());
      all.push(...await Promise.all(batch));
    }
    for (let round = 0; round < 2; round += 1) {
      all.forEach((ws, i) => ws.send(`tunnel ${i} round ${round}`));
      for (let i = 0; i < all.length; i += 1) await same(all[i], `tunnel ${i} round ${round}`, false, `tunnel ${i}`);
    }
    all.forEach((ws) => ws.close(1000));
    for (const ws of all) equal((await ws.closed).code, 1000, 'close code');
  },
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let scenario;
    [url, scenario, argument] = JSON.parse(line);
    console.log(JSON.stringify(await scenarios[scenario]().then(() => 'ok', (error) => String(error.stack || error))));
  }
})();
