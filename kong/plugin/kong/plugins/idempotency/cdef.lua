-- What LuaJIT must know of the library. Made from crates/core-ffi/src/glue, as include/idempotency.h there, which
-- explains it: UPDATE_HEADER=1 cargo test -p idempotency-core-ffi --test header
return [[
enum {
  IG_ABI = 1,
  IG_FULL = -2,
  IG_FAULT = -1,
  IG_PASS = 0,
  IG_REPLY = 1,
  IG_BODY = 2,
  IG_CALL = 3,
  IG_WAIT = 4,
  IG_EXECUTE = 5,
  IG_RELAY = 6,
  IG_DELIVER = 7,
  IG_DONE = 8,
  IG_LATER = 9,
  IG_AGAIN = 10,
  IG_LOST = 11,
  IG_CUT_BROKEN = 1,
  IG_CUT_LATE = 2,
  IG_WHOLE = 0,
};
typedef struct ig_config ig_config;
typedef struct ig_batch ig_batch;
typedef struct ig_request ig_request;
typedef struct ig_bytes {
  const uint8_t *data;
  size_t len;
} ig_bytes;
typedef struct ig_field {
  ig_bytes name;
  ig_bytes value;
} ig_field;
typedef struct ig_fields {
  const ig_field *data;
  size_t len;
} ig_fields;
typedef struct ig_service {
  ig_bytes target;
  ig_bytes authority;
  ig_bytes bearer;
  ig_bytes content_type;
  ig_bytes operations_path;
  ig_bytes wait_path;
  uint64_t timeout_ms;
  uint32_t max_in_flight;
  uint32_t max_operations;
  uint32_t tls;
} ig_service;
typedef struct ig_reply {
  uint32_t status;
  ig_fields fields;
  ig_bytes body;
} ig_reply;
typedef struct ig_head {
  ig_bytes method;
  ig_bytes target;
  ig_bytes authority;
  ig_fields fields;
  ig_fields properties;
  ig_bytes client;
  ig_bytes request_id;
  uint32_t bodiless;
  uint32_t truncated;
} ig_head;
int32_t ig_abi(void);
ig_config *ig_config_new(const uint8_t *json, size_t len);
void ig_config_free(ig_config *config);
int32_t ig_config_errors(const ig_config *config, ig_bytes *out);
int32_t ig_config_service(const ig_config *config, ig_service *out);
int32_t ig_config_properties(const ig_config *config, ig_fields *out);
int32_t ig_fault_reply(ig_reply *out);
ig_batch *ig_batch_new(const ig_config *config);
void ig_batch_free(ig_batch *batch);
int32_t ig_batch_add(ig_batch *batch, ig_request *request);
int32_t ig_batch_add_renewal(ig_batch *batch, ig_request *request);
int32_t ig_batch_message(ig_batch *batch, ig_bytes *out);
int32_t ig_batch_answer(ig_batch *batch, uint32_t status, const uint8_t *body, size_t len);
int32_t ig_decide(const ig_config *config, const ig_head *head, ig_request **out);
void ig_request_free(ig_request *request);
int32_t ig_request_strip(ig_request *request, ig_fields *out);
uint64_t ig_request_max_body(const ig_request *request);
int32_t ig_request_streams(const ig_request *request);
int32_t ig_request_body(ig_request *request, const uint8_t *data, size_t len);
int32_t ig_request_begin(ig_request *request);
int32_t ig_request_refuse(ig_request *request, uint32_t status, const uint8_t *detail, size_t len);
int32_t ig_request_answer(ig_request *request, const ig_batch *batch, int32_t place);
int32_t ig_request_pending(const ig_request *request);
int32_t ig_request_wait(ig_request *request, ig_bytes *out, uint64_t *wait_ms);
int32_t ig_request_waited(ig_request *request, uint32_t status, const uint8_t *body, size_t len);
int32_t ig_request_reply(ig_request *request, ig_reply *out);
int32_t ig_request_why(ig_request *request, ig_bytes *out);
int32_t ig_request_log_id(ig_request *request, ig_bytes *out);
int32_t ig_request_rule(ig_request *request, ig_bytes *out);
int32_t ig_request_abort(ig_request *request);
int32_t ig_request_forwarded(ig_request *request, ig_fields *out);
int32_t ig_request_may_send(ig_request *request);
int32_t ig_request_unreachable(ig_request *request);
int32_t ig_request_unanswered(ig_request *request, int32_t how);
int32_t ig_request_answered(ig_request *request, uint32_t status, const ig_field *fields, size_t count);
int32_t ig_request_passed(ig_request *request, ig_fields *out);
int32_t ig_request_piece(ig_request *request, const uint8_t *data, size_t len);
int32_t ig_request_trailers(ig_request *request);
int32_t ig_request_ended(ig_request *request, int32_t how);
int32_t ig_request_additions(ig_request *request, ig_fields *out);
int64_t ig_request_renewal_ms(const ig_request *request);
int32_t ig_request_renewed(ig_request *request, const ig_batch *batch, int32_t place);
]]
