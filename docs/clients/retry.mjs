// Posts once, however often it has to ask. Node.js 18 or newer; in browsers all but the last lines.

/** Returns the answer. `key` names the operation: store it with the order before you call. */
export async function postOnce(url, payload, key, { attempts = 6, timeoutMs = 10_000 } = {}) {
  const body = JSON.stringify(payload); // made once: each attempt must send the same bytes
  const headers = { "content-type": "application/json", "idempotency-key": key };
  for (let attempt = 0; attempt < attempts; attempt++) {
    let pause = (0.5 + Math.random() / 2) * Math.min(30_000, 500 * 2 ** attempt);
    try {
      const signal = AbortSignal.timeout(timeoutMs);
      const answer = await fetch(url, { method: "POST", headers, body, signal });
      const text = await answer.text();
      if (answer.ok || !mayBeSentAgain(answer, text)) {
        return { status: answer.status, headers: answer.headers, text };
      }
      const told = Number(answer.headers.get("retry-after"));
      if (told > 0) pause = told * 1000;
    } catch {
      // No answer: it may have been done, and only the same key is safe now.
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
  throw new Error(`no final answer to ${key} after ${attempts} attempts: ask again later, with the same key`);
}

function mayBeSentAgain(answer, text) {
  if (answer.headers.get("content-type")?.startsWith("application/problem+json")) {
    const problem = JSON.parse(text);
    if ("retryable" in problem) return problem.retryable && problem.reuse_key;
  }
  return [408, 425, 429, 502, 503, 504].includes(answer.status);
}

const [url, key, timeout] = globalThis.process?.argv.slice(2) ?? [];
if (url) {
  const answer = await postOnce(url, { amount: 4200 }, key, { timeoutMs: 1000 * Number(timeout) });
  const replayed = answer.headers.get("idempotency-replayed");
  console.log(JSON.stringify({ status: answer.status, replayed, body: answer.text }));
}
