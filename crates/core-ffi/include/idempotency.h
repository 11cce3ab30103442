/* The core of the Idempotency Gateway for hosts that are not written in Rust. Made from crates/core-ffi/src/glue:
 * UPDATE_HEADER=1 cargo test -p idempotency-core-ffi --test header
 *
 * Nothing is allocated for the caller to free but handles. Bytes that go in are read before a function returns.
 * Bytes that come out are borrowed from a handle, until the next call with it. A handle belongs to one thread at a
 * time; a configuration may be shared. */
#ifndef IDEMPOTENCY_H
#define IDEMPOTENCY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  /* Version of this interface. Another number is another interface. */
  IG_ABI = 1,
  /* There is no room in this message; send it, and take another one. */
  IG_FULL = -2,
  /* A defect, or a NULL handle: refuse the request (`ig_fault_reply`), then `ig_request_abort`. */
  IG_FAULT = -1,
  /* Let the request go on: it is not protected. */
  IG_PASS = 0,
  /* Answer the client with `ig_request_reply`. */
  IG_REPLY = 1,
  /* Give the request's body, piece by piece (`ig_request_body`), then `ig_request_begin`. */
  IG_BODY = 2,
  /* An operation is pending: `ig_batch_add`, send the message, `ig_batch_answer`, then `ig_request_answer`. */
  IG_CALL = 3,
  /* Send `ig_request_wait` to the path for waits, then `ig_request_waited`. */
  IG_WAIT = 4,
  /* Connect to the upstream, ask `ig_request_may_send`, and send `ig_request_forwarded`. */
  IG_EXECUTE = 5,
  /* Let the request go on with the fields of `ig_request_forwarded`: it is another gateway's execution. */
  IG_RELAY = 6,
  /* Give the client the upstream's answer. */
  IG_DELIVER = 7,
  /* Nothing is left to do. */
  IG_DONE = 8,
  /* The pending operation got no answer: send it again later. */
  IG_LATER = 9,
  /* The service is of an earlier release: send the message again, as `ig_batch_message` is now. */
  IG_AGAIN = 10,
  /* The lease is lost. */
  IG_LOST = 11,
  /* The answer or the request was cut: the connection broke, or what came was no HTTP. */
  IG_CUT_BROKEN = 1,
  /* Nothing came in time. */
  IG_CUT_LATE = 2,
  /* It is whole. */
  IG_WHOLE = 0,
};

/* A configuration, accepted or not. It may be shared by threads, and must outlive its requests' calls only: they
 * keep what they need of it. */
typedef struct ig_config ig_config;

/* A message with operations of one or more requests. Once it is answered, it is for `ig_request_answer` and
 * `ig_request_renewed`; a new one is needed for more operations. */
typedef struct ig_batch ig_batch;

/* A request that is protected, refused, or passed with fields to be removed. */
typedef struct ig_request ig_request;

/* Bytes that are borrowed from a handle, until its next call. */
typedef struct ig_bytes {
  /* NULL where there are none. */
  const uint8_t *data;
  /* How many. */
  size_t len;
} ig_bytes;

/* A header field. */
typedef struct ig_field {
  /* In any case; in lower case where it comes from here. */
  ig_bytes name;
  /* As it is. */
  ig_bytes value;
} ig_field;

/* Header fields in their order; names may repeat. */
typedef struct ig_fields {
  /* The first one. */
  const ig_field *data;
  /* How many. */
  size_t len;
} ig_fields;

/* Where the idempotency service is, and how it is called. */
typedef struct ig_service {
  /* `unix:/path`, `host` or `host:port`. */
  ig_bytes target;
  /* The value of `Host`. */
  ig_bytes authority;
  /* The value of `Authorization`; none: it is not sent. */
  ig_bytes bearer;
  /* The value of `Content-Type`. */
  ig_bytes content_type;
  /* Where messages of `ig_batch` are sent with POST. */
  ig_bytes operations_path;
  /* Where messages of `ig_request_wait` are sent with POST. */
  ig_bytes wait_path;
  /* Longest time for an answer, in milliseconds. A wait takes its own time besides. */
  uint64_t timeout_ms;
  /* Most messages that are out at a time; 0: no message carries more than one operation. */
  uint32_t max_in_flight;
  /* Most operations in one message. */
  uint32_t max_operations;
  /* 1: over TLS. */
  uint32_t tls;
} ig_service;

/* An answer to send to the client in place of the upstream's. */
typedef struct ig_reply {
  /* HTTP status. */
  uint32_t status;
  /* Its fields, without `content-length`. */
  ig_fields fields;
  /* Its body, byte by byte. */
  ig_bytes body;
} ig_reply;

/* A request before its body. */
typedef struct ig_head {
  /* As sent. */
  ig_bytes method;
  /* Path and query as the client sent them. */
  ig_bytes target;
  /* The host that the client asked for, with its port. */
  ig_bytes authority;
  /* All fields. */
  ig_fields fields;
  /* What is known of the properties that `ig_config_properties` names. */
  ig_fields properties;
  /* The client's address, for people. */
  ig_bytes client;
  /* What the gateway calls the request, for people. */
  ig_bytes request_id;
  /* 1: there is no body. */
  uint32_t bodiless;
  /* 1: not all fields are there. */
  uint32_t truncated;
} ig_head;

/* The version of the interface of this library: `IG_ABI` of the header that it was built with. */
int32_t ig_abi(void);

/* Reads a configuration (JSON, as docs/configuration.md has it). Always gives a handle: one that was rejected
 * (`ig_config_errors`) refuses requests. NULL only after a defect. To be freed with `ig_config_free`. */
ig_config *ig_config_new(const uint8_t *json, size_t len);

/* Frees a configuration. NULL is allowed. */
void ig_config_free(ig_config *config);

/* Why a configuration was rejected: one line for each fault, with the path of its field. None: it was accepted.
 * Borrowed as long as the configuration lives. */
int32_t ig_config_errors(const ig_config *config, ig_bytes *out);

/* Where the service is. `IG_FAULT` where the configuration was rejected. Borrowed as long as the configuration
 * lives. */
int32_t ig_config_service(const ig_config *config, ig_service *out);

/* The names of the properties that this configuration asks for (`kong.route_id`, `kong.consumer.custom_id`, …): each
 * request must tell those that it has. Values are empty. Borrowed as long as the configuration lives. */
int32_t ig_config_properties(const ig_config *config, ig_fields *out);

/* What a client gets after `IG_FAULT`: 503. Borrowed for ever. */
int32_t ig_fault_reply(ig_reply *out);

/* An empty message. NULL after a defect, or where `config` is NULL. To be freed with `ig_batch_free`. */
ig_batch *ig_batch_new(const ig_config *config);

/* Frees a message. NULL is allowed. */
void ig_batch_free(ig_batch *batch);

/* Adds the pending operation of a request: its place in the message, from 0, or `IG_FULL`. An empty message takes
 * every operation. */
int32_t ig_batch_add(ig_batch *batch, ig_request *request);

/* Adds the renewal of a request's lease: its place in the message, from 0, or `IG_FULL`; `IG_FAULT`: it holds none. */
int32_t ig_batch_add_renewal(ig_batch *batch, ig_request *request);

/* The message, to be sent with POST to `operations_path`. Borrowed until the next call with this message. */
int32_t ig_batch_message(ig_batch *batch, ig_bytes *out);

/* The message was answered with this status and body; status 0: no answer came. `IG_DONE`: each operation has its
 * result; `IG_AGAIN`: send the message again, which happens once. */
int32_t ig_batch_answer(ig_batch *batch, uint32_t status, const uint8_t *body, size_t len);

/* Decides from the head of a request: `IG_PASS`, `IG_REPLY` or `IG_BODY`. `*out` is NULL where nothing is left to do
 * with the request; else a handle to be freed with `ig_request_free`. `IG_FAULT`: refuse it. What `head` points to is
 * copied. */
int32_t ig_decide(const ig_config *config, const ig_head *head, ig_request **out);

/* Frees a request. NULL is allowed. What is still pending is lost: its lease runs out into *unknown*. */
void ig_request_free(ig_request *request);

/* Names of fields that must be removed from the request, whatever becomes of it. Values are empty. */
int32_t ig_request_strip(ig_request *request, ig_fields *out);

/* The longest body that is accepted, in bytes: nothing behind it needs to be read. */
uint64_t ig_request_max_body(const ig_request *request);

/* 1: the rule says that answers stream, and none of them is held back. */
int32_t ig_request_streams(const ig_request *request);

/* More of the request's body: `IG_BODY`, or `IG_REPLY` where it is too long. */
int32_t ig_request_body(ig_request *request, const uint8_t *data, size_t len);

/* The body is whole: `IG_CALL`, `IG_REPLY` or `IG_PASS`. */
int32_t ig_request_begin(ig_request *request);

/* Refuses a request whose form cannot be protected, with this status (0: 400). `detail` is for the client, UTF-8.
 * Only before `ig_request_begin`. */
int32_t ig_request_refuse(ig_request *request, uint32_t status, const uint8_t *detail, size_t len);

/* What came of the pending operation, which has this place in an answered message: `IG_CALL`, `IG_WAIT`, `IG_REPLY`,
 * `IG_EXECUTE`, `IG_RELAY`, `IG_DELIVER`; of an operation that nobody waits for `IG_DONE` or `IG_LATER`. After
 * `IG_REPLY` and `IG_DELIVER` another operation may be pending (`ig_request_pending`): deliver it in the background. */
int32_t ig_request_answer(ig_request *request, const ig_batch *batch, int32_t place);

/* 1: an operation is to be sent to the service. */
int32_t ig_request_pending(const ig_request *request);

/* The message of a wait, to be sent with POST to `wait_path`, and how long it may take, in milliseconds, besides
 * `timeout_ms`. `IG_FAULT`: its time is over; then `ig_request_waited` with status 0. */
int32_t ig_request_wait(ig_request *request, ig_bytes *out, uint64_t *wait_ms);

/* The wait was answered with this status and body; status 0: it was not. `IG_REPLY`, `IG_CALL`, or `IG_AGAIN`: send
 * `ig_request_wait` once more. */
int32_t ig_request_waited(ig_request *request, uint32_t status, const uint8_t *body, size_t len);

/* What the client gets. `IG_FAULT`: nothing was said yet. */
int32_t ig_request_reply(ig_request *request, ig_reply *out);

/* For the log: a word that names what happened, and its reason (`key-reused: …`); no keys and no payloads. None where
 * there is nothing to tell. */
int32_t ig_request_why(ig_request *request, ig_bytes *out);

/* By which name logs know the record; none while it is not known. */
int32_t ig_request_log_id(ig_request *request, ig_bytes *out);

/* The name of the rule that matched; none where none did. */
int32_t ig_request_rule(ig_request *request, ig_bytes *out);

/* The host goes no further with this request, whatever it was doing (also after `IG_FAULT`). `IG_CALL`: an operation
 * is pending, to be delivered in the background; `IG_DONE`: nothing is. */
int32_t ig_request_abort(ig_request *request);

/* The fields that go upstream: the client's and ours. Without `host`, `content-length` and those of the connection,
 * which the host writes. */
int32_t ig_request_forwarded(ig_request *request, ig_fields *out);

/* To be asked once, with a connection to the upstream at hand and before the first byte is sent: `IG_EXECUTE`, or
 * `IG_REPLY` where the lease is too old. From `IG_EXECUTE` on, the request counts as sent. */
int32_t ig_request_may_send(ig_request *request);

/* The upstream could not be reached; nothing was sent. `IG_CALL`; after `IG_DELIVER` the host makes the answer
 * itself. */
int32_t ig_request_unreachable(ig_request *request);

/* The request was sent, wholly or in part, and no head of an answer came. `how`: `IG_CUT_BROKEN` or `IG_CUT_LATE`.
 * `IG_CALL`. */
int32_t ig_request_unanswered(ig_request *request, int32_t how);

/* The head of the upstream's final answer has come (no status below 200): `IG_DELIVER`. What `fields` points to is
 * copied. Its body follows with `ig_request_piece`, and `ig_request_ended` ends it. */
int32_t ig_request_answered(ig_request *request, uint32_t status, const ig_field *fields, size_t count);

/* The fields of the upstream's answer that the client gets, without its length. */
int32_t ig_request_passed(ig_request *request, ig_fields *out);

/* More of the body of the upstream's answer: `IG_DONE`. */
int32_t ig_request_piece(ig_request *request, const uint8_t *data, size_t len);

/* The upstream's answer has trailers, which no replay can carry: `IG_DONE`. Before `ig_request_ended`. */
int32_t ig_request_trailers(ig_request *request);

/* The upstream's answer has ended: `IG_WHOLE`, `IG_CUT_BROKEN` or `IG_CUT_LATE`. `IG_CALL`; then `ig_request_answer`
 * says `IG_DELIVER`, or `IG_REPLY` where the client must not get what came. (If it has some of it already, its
 * connection must be broken.) */
int32_t ig_request_ended(ig_request *request, int32_t how);

/* Fields to add to the upstream's answer, if its head has not left. */
int32_t ig_request_additions(ig_request *request, ig_fields *out);

/* In how many milliseconds the lease of this request is to be renewed (0: now); -1: it holds none. */
int64_t ig_request_renewal_ms(const ig_request *request);

/* What came of the renewal with this place in an answered message: `IG_DONE` or `IG_LOST`. */
int32_t ig_request_renewed(ig_request *request, const ig_batch *batch, int32_t place);

#ifdef __cplusplus
}
#endif

#endif
