# Stripe's SDK for Python against the gateway: as stripe.cjs, with the same arguments.
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import stripe

done, unknown, busy, plain = sys.argv[1:]
stripe.enable_telemetry = False


def sdk(retries):
    address = f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"
    return stripe.StripeClient(
        "sk_test_x", base_addresses={"api": address}, max_network_retries=retries
    )


def charge(client, amount, key):
    params = {"amount": amount, "currency": "usd"}
    return client.v1.charges.create(params=params, options={"idempotency_key": key})


def post(client, path, key):
    return client.deserialize(
        client.raw_request("post", path, amount=5, idempotency_key=key), api_mode="V1"
    )


def refusal(call):
    try:
        call()
        return {"class": "resolved"}
    except stripe.StripeError as error:
        body = error.json_body or {}
        kind = (body.get("error") or {}).get("type")
        name = type(error).__name__
        return {
            "class": name, "status": error.http_status, "type": kind, "message": error.user_message,
        }


said = {}
first = charge(sdk(0), 5, done)
said["first"], said["id"] = first.status, first.id
# On Kong the record follows its answer; until then a duplicate is in flight.
said["again"] = charge(sdk(5), 5, done).id
said["reused"] = refusal(lambda: charge(sdk(2), 6, done))

failing = "?status=500"
refusal(lambda: post(sdk(0), "/v1/charges" + failing, unknown))
said["unknown"] = refusal(lambda: post(sdk(2), "/v1/charges" + failing, unknown))
refusal(lambda: post(sdk(0), "/v1/refunds" + failing, plain))
said["unstopped"] = refusal(lambda: post(sdk(1), "/v1/refunds" + failing, plain))

with ThreadPoolExecutor() as pool:
    slow = lambda _: post(sdk(5), "/v1/charges?delay_ms=1000", busy).id
    said["busy"] = list(pool.map(slow, range(2)))
print(json.dumps(said))
