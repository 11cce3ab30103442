"""Posts once, however often it has to ask. Python 3.8 or newer, nothing but its standard library."""

import http.client
import json
import random
import sys
import time
import urllib.error
import urllib.request


def post_once(url, payload, key, attempts=6, timeout=10.0):
    """Returns status, headers and body. `key` names the operation: store it with the order before you call."""
    body = json.dumps(payload).encode()  # made once: each attempt must send the same bytes
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    for attempt in range(attempts):
        pause = random.uniform(0.5, 1.0) * min(30.0, 0.5 * 2**attempt)
        try:
            request = urllib.request.Request(url, body, headers)
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as answer:
            content = answer.read()
            if not may_be_sent_again(answer.code, answer.headers, content):
                return answer.code, answer.headers, content
            pause = float(answer.headers.get("Retry-After") or pause)
        except (OSError, http.client.HTTPException):
            pass  # no answer: it may have been done, and only the same key is safe now
        time.sleep(pause)
    raise TimeoutError(f"no final answer to {key} after {attempts} attempts: ask again later, with the same key")


def may_be_sent_again(status, headers, content):
    if headers.get_content_type() == "application/problem+json":
        problem = json.loads(content)
        if "retryable" in problem:
            return problem["retryable"] and problem["reuse_key"]
    return status in (408, 425, 429, 502, 503, 504)


if __name__ == "__main__":
    url, key, timeout = sys.argv[1], sys.argv[2], float(sys.argv[3])
    status, headers, body = post_once(url, {"amount": 4200}, key, timeout=timeout)
    print(json.dumps({"status": status, "replayed": headers.get("Idempotency-Replayed"), "body": body.decode()}))
