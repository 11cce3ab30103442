// undici's RetryAgent behind a relay that cuts the first answer. Argument: a key.
const net = require('node:net');
const { Agent, RetryAgent, request } = require('undici');

const [key] = process.argv.slice(2);
const CUT = 20000;
const requests = [];

// The gateway's answer is read to its end, whatever the client gets of it.
const relay = net.createServer((client) => {
  const gateway = net.connect(+process.env.GATEWAY_PORT, '127.0.0.1');
  const first = requests.length === 0;
  let head = '';
  let sent = 0;
  let body = 0;
  client.on('error', () => {});
  client.on('data', (data) => {
    if (!head) requests.push((head = data.toString('latin1')));
    gateway.write(data);
  });
  client.on('close', () => { if (!first) gateway.destroy(); });
  gateway.on('error', () => client.destroy());
  gateway.on('close', () => client.destroy());
  gateway.on('data', (data) => {
    if (!first) return client.write(data);
    if (client.destroyed) return undefined;
    if (!sent) body = data.indexOf('\r\n\r\n') + 4;
    const left = body + CUT - sent;
    sent += data.length;
    if (data.length < left) return client.write(data);
    return client.write(data.subarray(0, left), () => client.destroy());
  });
});

const header = (name) => requests[1]?.match(new RegExp(`^${name}: (.*)\r$`, 'im'))?.[1];

relay.listen(0, '127.0.0.1', async () => {
  const agent = new RetryAgent(new Agent({ pipelining: 1 }), { maxRetries: 3, methods: ['POST'], minTimeout: 50 });
  const ask = (dispatcher) => request(
    `http://127.0.0.1:${relay.address().port}/charges?bytes=200000&header=etag:%22v1%22`,
    { dispatcher, method: 'POST', body: '{}', headers: { 'Idempotency-Key': key } });
  const said = {};
  const pieces = [];
  try {
    const { body } = await ask(agent);
    for await (const piece of body) pieces.push(piece);
    said.error = null;
  } catch (error) {
    said.error = {
      message: error.message, status: error.statusCode, replayed: error.headers?.['idempotency-replayed'],
    };
  }
  said.resumed = { range: header('range'), 'if-match': header('if-match') };
  const { statusCode, headers, body } = await ask(new Agent());
  const whole = Buffer.from(await body.arrayBuffer());
  const begin = Buffer.concat(pieces);
  said.whole = {
    status: statusCode, replayed: headers['idempotency-replayed'], bytes: whole.length,
    begins_like_the_first: begin.length === CUT && whole.subarray(0, CUT).equals(begin),
  };
  console.log(JSON.stringify(said));
  process.exit(0);
});
