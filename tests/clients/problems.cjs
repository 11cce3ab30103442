// A library that reads RFC 9457, against the gateway. Argument: a key.
const { handleErrorResponse } = require('@inrupt/solid-client-errors');

const [key] = process.argv.slice(2);
const send = (body) => fetch(`http://127.0.0.1:${process.env.GATEWAY_PORT}/problems`, {
  method: 'POST', headers: { 'Idempotency-Key': key }, body,
});

(async () => {
  const first = await send('1');
  if (!first.ok) throw new Error(`the first answer: ${first.status}`);
  const reused = await send('2');
  const { problemDetails } = handleErrorResponse(reused, await reused.text(), 'refused');
  const { type, title, status, detail } = problemDetails;
  console.log(JSON.stringify({ type, title, status, detail }));
})();
