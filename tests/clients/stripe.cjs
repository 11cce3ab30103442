// Stripe's SDK for Node.js against the gateway. Arguments: keys for a charge that is done, one whose outcome is
// unknown, one that is sent twice at the same time, and one under a rule without Stripe's form.
const Stripe = require('stripe');

const [done, unknown, busy, plain] = process.argv.slice(2);
const sdk = (maxNetworkRetries) => {
  const stripe = new Stripe('sk_test_x', {
    host: '127.0.0.1', port: +process.env.GATEWAY_PORT, protocol: 'http', maxNetworkRetries, telemetry: false,
  });
  return { stripe, post: (path, key) => stripe.rawRequest('POST', path, { amount: 5 }, { idempotencyKey: key }) };
};
const refusal = async (answer) => {
  try {
    const resolved = await answer;
    return { class: 'resolved', status: resolved.lastResponse?.statusCode };
  } catch (error) {
    return {
      class: error.constructor.name, status: error.statusCode, type: error.rawType, message: error.message,
    };
  }
};

(async () => {
  const said = {};
  const { stripe } = sdk(0);
  const charge = { amount: 5, currency: 'usd' };
  const first = await stripe.charges.create(charge, { idempotencyKey: done });
  said.first = first.status;
  said.id = first.id;
  // On Kong the record follows its answer; until then a duplicate is in flight.
  said.again = (await sdk(5).stripe.charges.create(charge, { idempotencyKey: done })).id;
  said.reused = await refusal(
    sdk(2).stripe.charges.create({ ...charge, amount: 6 }, { idempotencyKey: done }));

  const failing = '?status=500';
  await refusal(sdk(0).post('/v1/charges' + failing, unknown));
  said.unknown = await refusal(sdk(2).post('/v1/charges' + failing, unknown));
  await refusal(sdk(0).post('/v1/refunds' + failing, plain));
  said.unstopped = await refusal(sdk(1).post('/v1/refunds' + failing, plain));

  // Whichever comes second is refused until the first is done.
  const slow = () => sdk(5).post('/v1/charges?delay_ms=1000', busy);
  const both = await Promise.all([slow(), slow()]);
  said.busy = both.map((charge) => charge.id);
  console.log(JSON.stringify(said));
  process.exit(0);
})();
