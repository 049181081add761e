// SPDX-License-Identifier: GPL-2.0
// An ordinary application in Node: HTTP and WebSocket (`ws`) on one port. Usage: node app.js HOST PORT
'use strict';

const crypto = require('crypto');
const http = require('http');
const { WebSocketServer } = require('ws');

const [host, port] = [process.argv[2], Number(process.argv[3])];
let connections = 0;

// Answers with the body it was sent and its MD5; `?chunked` chooses the framing of the answer.
function echo(request, response, chunked) {
  const hash = crypto.createHash('md5');
  const parts = [];
  let length = 0;
  request.on('data', (data) => {
    hash.update(data);
    parts.push(data);
    length += data.length;
  });
  request.on('end', () => {
    response.setHeader('X-MD5', hash.digest('hex'));
    response.setHeader('X-Framing', request.headers['transfer-encoding'] || 'length');
    if (!chunked) response.setHeader('Content-Length', length);
    const next = () => {
      while (parts.length) {
        if (!response.write(parts.shift())) {
          response.once('drain', next);
          return;
        }
      }
      response.end();
    };
    next();
  });
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://x');
  const status = /^\/status\/(\d+)$/.exec(url.pathname);
  if (url.pathname === '/echo') {
    echo(request, response, url.searchParams.has('chunked'));
  } else if (status) {
    response.writeHead(Number(status[1]), { ETag: '"v1"' });
    response.end();
  } else if (url.pathname === '/early') {
    response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
    setTimeout(() => response.end('final'), 50);
  } else if (url.pathname === '/fields') {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ line: `${request.method} ${request.url} HTTP/${request.httpVersion}`,
      fields: request.rawHeaders }));
  } else if (url.pathname === '/connections') {
    response.end(String(connections));
  } else if (url.pathname === '/trailers') {
    const chunked = request.httpVersion === '1.1';
    if (chunked) response.setHeader('Trailer', 'X-Sum');
    response.write('body');
    if (chunked) response.addTrailers({ 'X-Sum': '42' });
    response.end();
  } else {
    response.setHeader('Content-Type', 'text/plain');
    response.end(`hello ${url.pathname}`);
  }
});
server.keepAliveTimeout = 0;
server.requestTimeout = 0;
server.headersTimeout = 0;
server.on('connection', () => { connections += 1; });

// An extension is agreed upon only under /deflate, so that both kinds of tunnels are there to be tested.
const options = { noServer: true, maxPayload: 32 << 20, handleProtocols: (offered) => [...offered].pop() };
const plain = new WebSocketServer({ ...options, perMessageDeflate: false });
const deflating = new WebSocketServer({ ...options, perMessageDeflate: { threshold: 0 } });

server.on('upgrade', (request, socket, head) => {
  const refused = /^\/refuse\/(\d+)/.exec(request.url);
  if (refused) {
    const body = 'refused';
    socket.write(`HTTP/1.1 ${refused[1]} ${http.STATUS_CODES[refused[1]]}\r\n` +
      (refused[1] === '426' ? 'Upgrade: websocket\r\nConnection: upgrade\r\n' : '') +
      `Content-Length: ${body.length}\r\n\r\n${body}`);
    // Back to HTTP on the same connection, as a server does that answers an upgrade request normally.
    server.emit('connection', socket);
    if (head.length) socket.unshift(head);
    return;
  }
  const wss = request.url.startsWith('/deflate') ? deflating : plain;
  wss.handleUpgrade(request, socket, head, (ws) => {
    ws.on('error', () => {});
    ws.on('message', (data, binary) => {
      const text = binary ? '' : data.toString();
      if (text.startsWith('close ')) ws.close(Number(text.slice(6)), 'as asked');
      else if (text === 'die') socket.destroy();
      else if (text === 'ping me') ws.ping('from the server');
      else ws.send(data, { binary });
    });
    ws.on('pong', (data) => ws.send(`pong ${data}`));
  });
});

server.listen({ host, port, backlog: 4096 }, () => console.log('ready'));
