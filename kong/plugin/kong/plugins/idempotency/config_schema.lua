-- The configuration as JSON Schema, draft-04, which Kong reads. Made from the table of crates/core/src/config/policy.rs:
-- UPDATE_META=1 cargo test -p idempotency-core config
return {
  ["$schema"] = "http://json-schema.org/draft-04/schema#",
  ["additionalProperties"] = false,
  ["definitions"] = {
    ["content_type"] = {
      ["enum"] = {
        "content-type",
      },
    },
    ["cors_replay"] = {
      ["enum"] = {
        "stored",
        "gateway",
      },
    },
    ["credentials"] = {
      ["enum"] = {
        "authorization",
        "cookie",
      },
    },
    ["header"] = {
      ["description"] = "A header name. Case does not matter; the deny lists here are in lower case, the parser applies them in any case.",
      ["maxLength"] = 128,
      ["minLength"] = 1,
      ["not"] = {
        ["enum"] = {
          "connection",
          "content-length",
          "host",
          "keep-alive",
          "proxy-authenticate",
          "proxy-authorization",
          "proxy-connection",
          "te",
          "trailer",
          "transfer-encoding",
          "upgrade",
        },
      },
      ["pattern"] = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
      ["type"] = "string",
    },
    ["kong_ids"] = {
      ["items"] = {
        ["pattern"] = "^[0-9A-Fa-f-]{36}$",
        ["type"] = "string",
      },
      ["minItems"] = 1,
      ["type"] = "array",
      ["uniqueItems"] = true,
    },
    ["match"] = {
      ["additionalProperties"] = false,
      ["description"] = "Which requests the rule protects.",
      ["not"] = {
        ["required"] = {
          "path",
          "path_prefix",
        },
      },
      ["properties"] = {
        ["hosts"] = {
          ["description"] = "Host names without port; `*.example.com` is any name below example.com. Default: every host.",
          ["items"] = {
            ["maxLength"] = 255,
            ["pattern"] = "^((\\*\\.)?[A-Za-z0-9_-]([A-Za-z0-9._-]*[A-Za-z0-9_-])?|\\[[0-9A-Fa-f:.]+\\])$",
            ["type"] = "string",
          },
          ["minItems"] = 1,
          ["type"] = "array",
          ["uniqueItems"] = true,
        },
        ["kong_routes"] = {
          ["allOf"] = {
            {
              ["$ref"] = "#/definitions/kong_ids",
            },
          },
          ["description"] = "Kong: ids of routes. Default: every route.",
        },
        ["kong_services"] = {
          ["allOf"] = {
            {
              ["$ref"] = "#/definitions/kong_ids",
            },
          },
          ["description"] = "Kong: ids of services. Default: every service.",
        },
        ["methods"] = {
          ["default"] = {
            "POST",
            "PATCH",
          },
          ["description"] = "Methods, or \"*\" for all but GET, HEAD, OPTIONS and TRACE.",
          ["oneOf"] = {
            {
              ["enum"] = {
                "*",
              },
            },
            {
              ["items"] = {
                ["maxLength"] = 32,
                ["minLength"] = 1,
                ["not"] = {
                  ["enum"] = {
                    "GET",
                    "HEAD",
                    "OPTIONS",
                    "TRACE",
                    "CONNECT",
                  },
                },
                ["pattern"] = "^[!#$%&'*+.^_`|~0-9A-Z-]+$",
                ["type"] = "string",
              },
              ["minItems"] = 1,
              ["type"] = "array",
              ["uniqueItems"] = true,
            },
          },
        },
        ["path"] = {
          ["allOf"] = {
            {
              ["$ref"] = "#/definitions/path",
            },
          },
          ["description"] = "The whole path, in normal form. A trailing slash in the request does not matter.",
        },
        ["path_prefix"] = {
          ["allOf"] = {
            {
              ["$ref"] = "#/definitions/path",
            },
          },
          ["default"] = "/",
          ["description"] = "The path and everything below it, at segment boundaries; in normal form.",
        },
      },
      ["type"] = "object",
    },
    ["never_replayed"] = {
      ["enum"] = {
        "age",
        "authentication-info",
        "authorization",
        "cookie",
        "date",
        "proxy-authentication-info",
        "set-cookie",
        "set-cookie2",
        "www-authenticate",
      },
    },
    ["outcome"] = {
      ["enum"] = {
        "completed",
        "failed",
        "unknown",
      },
    },
    ["path"] = {
      ["not"] = {
        ["anyOf"] = {
          {
            ["pattern"] = "[?#*;\\\\]",
          },
          {
            ["pattern"] = "[^!-~]",
          },
          {
            ["pattern"] = "[\"<>^`{|}]",
          },
          {
            ["pattern"] = "//",
          },
          {
            ["pattern"] = "/\\.\\.?(/|$)",
          },
          {
            ["pattern"] = "%([^0-9A-F]|[0-9A-F][^0-9A-F]|.?$)",
          },
          {
            ["pattern"] = "%([01].|2[35DEF]|3[0-9BF]|4[1-9A-F]|5[0-9ACF]|6[1-9A-F]|7[0-9AEF]|C[01]|F[5-9A-F])",
          },
        },
      },
      ["pattern"] = "^/",
      ["type"] = "string",
    },
    ["pointer"] = {
      ["description"] = "A JSON Pointer (RFC 6901) to a member.",
      ["pattern"] = "^(/([^~/]|~[01])*)+$",
      ["type"] = "string",
    },
    ["policy"] = {
      ["properties"] = {
        ["accept_encoding"] = {
          ["default"] = "identity",
          ["description"] = "identity: protected requests ask the upstream for an uncompressed answer; keep: as the client sent it.",
          ["enum"] = {
            "identity",
            "keep",
          },
        },
        ["cors"] = {
          ["default"] = "stored",
          ["description"] = "stored: replays carry the CORS headers of the first answer, for an equal Origin; gateway: they are made outside the filter. An object also names the origins whose pages may read refusals.",
          ["oneOf"] = {
            {
              ["$ref"] = "#/definitions/cors_replay",
            },
            {
              ["additionalProperties"] = false,
              ["properties"] = {
                ["credentials"] = {
                  ["description"] = "They may read them where the page asked with credentials.",
                  ["type"] = "boolean",
                },
                ["origins"] = {
                  ["description"] = "Origins whose pages may read the filter's own refusals; * is every origin.",
                  ["items"] = {
                    ["maxLength"] = 255,
                    ["pattern"] = "^(\\*|[a-z0-9+.-]+://[a-z0-9._:\\[\\]-]+)$",
                    ["type"] = "string",
                  },
                  ["type"] = "array",
                  ["uniqueItems"] = true,
                },
                ["replay"] = {
                  ["allOf"] = {
                    {
                      ["$ref"] = "#/definitions/cors_replay",
                    },
                  },
                  ["description"] = "stored: replays carry the access-control-* headers of the first answer, for an equal Origin; gateway: none.",
                },
              },
              ["type"] = "object",
            },
          },
        },
        ["execution"] = {
          ["description"] = "detached: the client may leave; inline: a client that leaves cuts the execution off. Default: detached if the top-level field `detached` is there.",
          ["enum"] = {
            "inline",
            "detached",
          },
        },
        ["execution_timeout_ms"] = {
          ["default"] = 30000,
          ["description"] = "Timeout of a detached execution. Must be less than lease_ms - lease_margin_ms.",
          ["maximum"] = 4294967295,
          ["minimum"] = 1,
          ["multipleOf"] = 1,
          ["type"] = "number",
        },
        ["fingerprint"] = {
          ["additionalProperties"] = false,
          ["description"] = "What counts as the same payload, besides method, path, query and content-type.",
          ["properties"] = {
            ["body"] = {
              ["description"] = "raw: its bytes; json: its canonical form; none: nothing, and content-type counts without parameters. Default: raw; none where key.from is set.",
              ["enum"] = {
                "raw",
                "json",
                "none",
              },
            },
            ["headers"] = {
              ["description"] = "Request headers that count. Replaces the default list.",
              ["items"] = {
                ["allOf"] = {
                  {
                    ["$ref"] = "#/definitions/header",
                  },
                  {
                    ["not"] = {
                      ["$ref"] = "#/definitions/content_type",
                    },
                  },
                },
              },
              ["type"] = "array",
              ["uniqueItems"] = true,
            },
            ["host"] = {
              ["default"] = false,
              ["description"] = "Whether the host counts.",
              ["type"] = "boolean",
            },
            ["json"] = {
              ["additionalProperties"] = false,
              ["description"] = "Which members of a JSON body count.",
              ["properties"] = {
                ["ignore"] = {
                  ["default"] = {
                  },
                  ["description"] = "JSON Pointers to members of the body that do not count.",
                  ["items"] = {
                    ["$ref"] = "#/definitions/pointer",
                  },
                  ["type"] = "array",
                  ["uniqueItems"] = true,
                },
                ["only"] = {
                  ["default"] = {
                  },
                  ["description"] = "JSON Pointers to the only members of the body that count.",
                  ["items"] = {
                    ["$ref"] = "#/definitions/pointer",
                  },
                  ["type"] = "array",
                  ["uniqueItems"] = true,
                },
              },
              ["type"] = "object",
            },
            ["query"] = {
              ["additionalProperties"] = false,
              ["description"] = "Which parameters of the query count.",
              ["properties"] = {
                ["ignore"] = {
                  ["default"] = {
                  },
                  ["description"] = "Names of parameters that do not count.",
                  ["items"] = {
                    ["maxLength"] = 255,
                    ["minLength"] = 1,
                    ["pattern"] = "^[^\\x00-\\x1f\\x7f]*$",
                    ["type"] = "string",
                  },
                  ["type"] = "array",
                  ["uniqueItems"] = true,
                },
              },
              ["type"] = "object",
            },
          },
          ["type"] = "object",
        },
        ["key"] = {
          ["additionalProperties"] = false,
          ["description"] = "How keys are read.",
          ["properties"] = {
            ["from"] = {
              ["allOf"] = {
                {
                  ["$ref"] = "#/definitions/pointer",
                },
              },
              ["description"] = "JSON Pointer to the member of the body that is the key, instead of a header.",
            },
            ["header"] = {
              ["allOf"] = {
                {
                  ["$ref"] = "#/definitions/header",
                },
                {
                  ["not"] = {
                    ["$ref"] = "#/definitions/credentials",
                  },
                },
                {
                  ["not"] = {
                    ["$ref"] = "#/definitions/content_type",
                  },
                },
              },
              ["default"] = "Idempotency-Key",
              ["description"] = "Request header that carries the key.",
            },
            ["headers"] = {
              ["default"] = {
              },
              ["description"] = "Request headers that carry the key: the first that is there; two different keys are refused.",
              ["items"] = {
                ["allOf"] = {
                  {
                    ["$ref"] = "#/definitions/header",
                  },
                  {
                    ["not"] = {
                      ["$ref"] = "#/definitions/credentials",
                    },
                  },
                  {
                    ["not"] = {
                      ["$ref"] = "#/definitions/content_type",
                    },
                  },
                },
              },
              ["type"] = "array",
              ["uniqueItems"] = true,
            },
            ["placeholders"] = {
              ["default"] = "refuse",
              ["description"] = "What a program sends whose variable is not set (`undefined`, `null`, …). refuse: 400; allow: a key like any other.",
              ["enum"] = {
                "refuse",
                "allow",
              },
            },
            ["syntax"] = {
              ["default"] = "any",
              ["description"] = "any: a quoted string (RFC 9651) or a bare one; strict: quoted only.",
              ["enum"] = {
                "any",
                "strict",
              },
            },
            ["when_missing"] = {
              ["default"] = "refuse",
              ["description"] = "refuse: 400; pass: not protected; derive: a hash of tenant, operation and payload is the key.",
              ["enum"] = {
                "refuse",
                "pass",
                "derive",
              },
            },
          },
          ["type"] = "object",
        },
        ["lease_margin_ms"] = {
          ["default"] = 1000,
          ["description"] = "A grant older than lease_ms - lease_margin_ms is not forwarded.",
          ["maximum"] = 86400000,
          ["minimum"] = 1,
          ["multipleOf"] = 1,
          ["type"] = "number",
        },
        ["lease_ms"] = {
          ["default"] = 60000,
          ["description"] = "How long one execution may hold the key without renewal.",
          ["maximum"] = 86400000,
          ["minimum"] = 1,
          ["multipleOf"] = 1,
          ["type"] = "number",
        },
        ["max_body_bytes"] = {
          ["default"] = 1048576,
          ["description"] = "Largest request body; above it 413.",
          ["maximum"] = 268435456,
          ["minimum"] = 1,
          ["multipleOf"] = 1,
          ["type"] = "number",
        },
        ["max_response_bytes"] = {
          ["default"] = 1048576,
          ["description"] = "Largest response body that is stored; above it, retries learn that it is done, but not the answer.",
          ["maximum"] = 15728640,
          ["minimum"] = 1,
          ["multipleOf"] = 1,
          ["type"] = "number",
        },
        ["mode"] = {
          ["default"] = "enforce",
          ["description"] = "observe: only count and log what would have been done.",
          ["enum"] = {
            "enforce",
            "observe",
          },
        },
        ["namespace"] = {
          ["default"] = "",
          ["description"] = "Separates key spaces. Requests with the same tenant, namespace and key share a record.",
          ["maxLength"] = 255,
          ["pattern"] = "^[^\\x00-\\x1f\\x7f]*$",
          ["type"] = "string",
        },
        ["on_complete_failure"] = {
          ["default"] = "deliver",
          ["description"] = "When the response cannot be stored: the client gets it, or 503.",
          ["enum"] = {
            "deliver",
            "withhold",
          },
        },
        ["on_service_failure"] = {
          ["default"] = "refuse",
          ["description"] = "Without an answer from the service: 503, or forward without protection.",
          ["enum"] = {
            "refuse",
            "pass",
          },
        },
        ["on_unknown"] = {
          ["default"] = "refuse",
          ["description"] = "What a retry of an unknown outcome gets: 409, or a new execution.",
          ["enum"] = {
            "refuse",
            "retry",
          },
        },
        ["outcomes"] = {
          ["default"] = "default",
          ["description"] = "What answers mean for their key; the most specific name wins.",
          ["oneOf"] = {
            {
              ["enum"] = {
                "default",
                "all",
              },
            },
            {
              ["additionalProperties"] = false,
              ["patternProperties"] = {
                ["^[2-5]([0-9][0-9]|xx)([+]retry-after)?$"] = {
                  ["$ref"] = "#/definitions/outcome",
                },
              },
              ["type"] = "object",
            },
          },
        },
        ["problems"] = {
          ["default"] = "default",
          ["description"] = "What refusals carry besides their documents, by type, so that client libraries recognise them.",
          ["oneOf"] = {
            {
              ["enum"] = {
                "default",
                "stripe",
              },
            },
            {
              ["additionalProperties"] = false,
              ["patternProperties"] = {
                ["^(missing-key|invalid-key|tenant-missing|key-reused|in-flight|outcome-unknown|not-comparable|not-replayable|body-too-large|unsupported-request|store-unavailable|misconfigured|outcome-unrecorded|tenant-quota)$"] = {
                  ["additionalProperties"] = false,
                  ["properties"] = {
                    ["headers"] = {
                      ["additionalProperties"] = {
                        ["maxLength"] = 1024,
                        ["minLength"] = 1,
                        ["pattern"] = "^[!-~]([\\t -~]*[!-~])?$",
                        ["type"] = "string",
                      },
                      ["description"] = "Headers besides its own.",
                      ["maxProperties"] = 16,
                      ["type"] = "object",
                    },
                    ["members"] = {
                      ["description"] = "Members of the document besides its own.",
                      ["maxProperties"] = 16,
                      ["patternProperties"] = {
                        ["^(detail|instance|retryable|reuse_key|status|title|type)$"] = {
                          ["not"] = {
                          },
                        },
                      },
                      ["type"] = "object",
                    },
                  },
                  ["type"] = "object",
                },
              },
              ["type"] = "object",
            },
          },
        },
        ["replay_headers"] = {
          ["default"] = {
          },
          ["description"] = "Response headers that are stored and replayed besides the built-in list.",
          ["items"] = {
            ["allOf"] = {
              {
                ["$ref"] = "#/definitions/header",
              },
              {
                ["not"] = {
                  ["$ref"] = "#/definitions/never_replayed",
                },
              },
              {
                ["not"] = {
                  ["pattern"] = "^access-control-",
                },
              },
            },
          },
          ["type"] = "array",
          ["uniqueItems"] = true,
        },
        ["retry_after_s"] = {
          ["default"] = 1,
          ["description"] = "The Retry-After of refusals, in seconds.",
          ["maximum"] = 86400,
          ["minimum"] = 1,
          ["multipleOf"] = 1,
          ["type"] = "number",
        },
        ["scope"] = {
          ["description"] = "Where the tenant comes from. Required in each rule or in defaults.",
          ["oneOf"] = {
            {
              ["enum"] = {
                "global",
              },
            },
            {
              ["additionalProperties"] = false,
              ["maxProperties"] = 1,
              ["minProperties"] = 1,
              ["properties"] = {
                ["credentials"] = {
                  ["description"] = "A hash of Authorization, for credentials that never change.",
                  ["enum"] = {
                    "static",
                  },
                },
                ["header"] = {
                  ["allOf"] = {
                    {
                      ["$ref"] = "#/definitions/header",
                    },
                    {
                      ["not"] = {
                        ["$ref"] = "#/definitions/credentials",
                      },
                    },
                  },
                  ["description"] = "A header that authentication in front of the filter sets, and that a client cannot.",
                },
                ["property"] = {
                  ["description"] = "Path of a property of the host.",
                  ["items"] = {
                    ["maxLength"] = 255,
                    ["minLength"] = 1,
                    ["pattern"] = "^[^\\x00-\\x1f\\x7f]*$",
                    ["type"] = "string",
                  },
                  ["minItems"] = 1,
                  ["type"] = "array",
                },
              },
              ["type"] = "object",
            },
          },
        },
        ["stream"] = {
          ["default"] = false,
          ["description"] = "Answers stream. On Envoy such requests are executed inline.",
          ["type"] = "boolean",
        },
        ["ttl_ms"] = {
          ["default"] = 86400000,
          ["description"] = "How long results are kept.",
          ["maximum"] = 316224000000,
          ["minimum"] = 1,
          ["multipleOf"] = 1,
          ["type"] = "number",
        },
        ["unknown_ttl_ms"] = {
          ["description"] = "How long unknown outcomes are kept; at least ttl_ms. Default: the larger of ttl_ms and 7 days.",
          ["maximum"] = 316224000000,
          ["minimum"] = 1,
          ["multipleOf"] = 1,
          ["type"] = "number",
        },
        ["wait_ms"] = {
          ["default"] = 0,
          ["description"] = "How long a duplicate waits for the first answer.",
          ["maximum"] = 60000,
          ["minimum"] = 0,
          ["multipleOf"] = 1,
          ["type"] = "number",
        },
      },
    },
  },
  ["description"] = "The parser also refuses contradictions between fields, which this schema cannot express; `idempotencyd check-config` runs the parser.",
  ["properties"] = {
    ["defaults"] = {
      ["additionalProperties"] = false,
      ["description"] = "Policy fields for all rules; a rule's own fields win, member by member in `key`, `fingerprint`, `outcomes` and `problems`.",
      ["properties"] = {
        ["accept_encoding"] = {
          ["$ref"] = "#/definitions/policy/properties/accept_encoding",
        },
        ["cors"] = {
          ["$ref"] = "#/definitions/policy/properties/cors",
        },
        ["execution"] = {
          ["$ref"] = "#/definitions/policy/properties/execution",
        },
        ["execution_timeout_ms"] = {
          ["$ref"] = "#/definitions/policy/properties/execution_timeout_ms",
        },
        ["fingerprint"] = {
          ["$ref"] = "#/definitions/policy/properties/fingerprint",
        },
        ["key"] = {
          ["$ref"] = "#/definitions/policy/properties/key",
        },
        ["lease_margin_ms"] = {
          ["$ref"] = "#/definitions/policy/properties/lease_margin_ms",
        },
        ["lease_ms"] = {
          ["$ref"] = "#/definitions/policy/properties/lease_ms",
        },
        ["max_body_bytes"] = {
          ["$ref"] = "#/definitions/policy/properties/max_body_bytes",
        },
        ["max_response_bytes"] = {
          ["$ref"] = "#/definitions/policy/properties/max_response_bytes",
        },
        ["mode"] = {
          ["$ref"] = "#/definitions/policy/properties/mode",
        },
        ["namespace"] = {
          ["$ref"] = "#/definitions/policy/properties/namespace",
        },
        ["on_complete_failure"] = {
          ["$ref"] = "#/definitions/policy/properties/on_complete_failure",
        },
        ["on_service_failure"] = {
          ["$ref"] = "#/definitions/policy/properties/on_service_failure",
        },
        ["on_unknown"] = {
          ["$ref"] = "#/definitions/policy/properties/on_unknown",
        },
        ["outcomes"] = {
          ["$ref"] = "#/definitions/policy/properties/outcomes",
        },
        ["problems"] = {
          ["$ref"] = "#/definitions/policy/properties/problems",
        },
        ["replay_headers"] = {
          ["$ref"] = "#/definitions/policy/properties/replay_headers",
        },
        ["retry_after_s"] = {
          ["$ref"] = "#/definitions/policy/properties/retry_after_s",
        },
        ["scope"] = {
          ["$ref"] = "#/definitions/policy/properties/scope",
        },
        ["stream"] = {
          ["$ref"] = "#/definitions/policy/properties/stream",
        },
        ["ttl_ms"] = {
          ["$ref"] = "#/definitions/policy/properties/ttl_ms",
        },
        ["unknown_ttl_ms"] = {
          ["$ref"] = "#/definitions/policy/properties/unknown_ttl_ms",
        },
        ["wait_ms"] = {
          ["$ref"] = "#/definitions/policy/properties/wait_ms",
        },
      },
      ["type"] = "object",
    },
    ["detached"] = {
      ["additionalProperties"] = false,
      ["description"] = "Allows detached execution, and makes it the default.",
      ["properties"] = {
        ["cluster"] = {
          ["description"] = "Envoy: the cluster that leads into the internal listener with the ordinary routes.",
          ["maxLength"] = 255,
          ["minLength"] = 1,
          ["pattern"] = "^[!-~]+$",
          ["type"] = "string",
        },
      },
      ["required"] = {
        "cluster",
      },
      ["type"] = "object",
    },
    ["hop"] = {
      ["additionalProperties"] = false,
      ["description"] = "Another gateway with this filter stands before or behind this one.",
      ["oneOf"] = {
        {
          ["required"] = {
            "key",
          },
        },
        {
          ["required"] = {
            "key_env",
          },
        },
      },
      ["properties"] = {
        ["key"] = {
          ["description"] = "What gateways in one path prove to each other with; the same for all of them. A list is for rotation: the first one signs, all are accepted.",
          ["oneOf"] = {
            {
              ["maxLength"] = 255,
              ["minLength"] = 16,
              ["pattern"] = "^[!-~]+$",
              ["type"] = "string",
            },
            {
              ["items"] = {
                ["maxLength"] = 255,
                ["minLength"] = 16,
                ["pattern"] = "^[!-~]+$",
                ["type"] = "string",
              },
              ["minItems"] = 1,
              ["type"] = "array",
              ["uniqueItems"] = true,
            },
          },
        },
        ["key_env"] = {
          ["description"] = "The variable in the environment of the gateway's VM that has the keys, white space between them, in place of key. As service.token_env.",
          ["maxLength"] = 128,
          ["minLength"] = 1,
          ["pattern"] = "^[A-Za-z0-9_]+$",
          ["type"] = "string",
        },
        ["last"] = {
          ["description"] = "No gateway with this filter stands behind this one: it accepts proofs, and sends none. Default: false.",
          ["type"] = "boolean",
        },
      },
      ["type"] = "object",
    },
    ["host"] = {
      ["default"] = "auto",
      ["description"] = "The host that the configuration is for. The filter finds out by itself where it runs; a host that is named and is not the one refuses the configuration.",
      ["enum"] = {
        "auto",
        "envoy",
        "kong",
      },
    },
    ["kong"] = {
      ["additionalProperties"] = false,
      ["description"] = "For Kong only; without meaning in Envoy.",
      ["properties"] = {
        ["bodies"] = {
          ["default"] = "early",
          ["description"] = "When request bodies are there. `early`: ngx.req.read_body() is called in the access phase before the filter; a body that is not there is refused with 503. `late`: rules with inline execution wait for the body callback; only right with proxy_ignore_client_abort off, else nginx executes requests twice.",
          ["enum"] = {
            "early",
            "late",
          },
        },
      },
      ["type"] = "object",
    },
    ["problem_base"] = {
      ["default"] = "urn:idempotency-gateway:problem:",
      ["description"] = "Prefix of the `type` of problem documents (RFC 9457); the name of the problem is appended.",
      ["maxLength"] = 1024,
      ["minLength"] = 1,
      ["not"] = {
        ["pattern"] = "[<>\"\\\\]",
      },
      ["pattern"] = "^[!-~]*:[!-~]*$",
      ["type"] = "string",
    },
    ["replay_header"] = {
      ["allOf"] = {
        {
          ["$ref"] = "#/definitions/header",
        },
        {
          ["not"] = {
            ["$ref"] = "#/definitions/never_replayed",
          },
        },
        {
          ["not"] = {
            ["enum"] = {
              "content-type",
              "content-encoding",
              "location",
              "etag",
              "retry-after",
              "link",
            },
          },
        },
      },
      ["default"] = "Idempotency-Replayed",
      ["description"] = "Name of the response header that marks a replay.",
    },
    ["rules"] = {
      ["description"] = "The first rule that matches decides. A request that no rule matches passes untouched.",
      ["items"] = {
        ["additionalProperties"] = false,
        ["properties"] = {
          ["accept_encoding"] = {
            ["$ref"] = "#/definitions/policy/properties/accept_encoding",
          },
          ["cors"] = {
            ["$ref"] = "#/definitions/policy/properties/cors",
          },
          ["execution"] = {
            ["$ref"] = "#/definitions/policy/properties/execution",
          },
          ["execution_timeout_ms"] = {
            ["$ref"] = "#/definitions/policy/properties/execution_timeout_ms",
          },
          ["fingerprint"] = {
            ["$ref"] = "#/definitions/policy/properties/fingerprint",
          },
          ["key"] = {
            ["$ref"] = "#/definitions/policy/properties/key",
          },
          ["lease_margin_ms"] = {
            ["$ref"] = "#/definitions/policy/properties/lease_margin_ms",
          },
          ["lease_ms"] = {
            ["$ref"] = "#/definitions/policy/properties/lease_ms",
          },
          ["match"] = {
            ["$ref"] = "#/definitions/match",
          },
          ["max_body_bytes"] = {
            ["$ref"] = "#/definitions/policy/properties/max_body_bytes",
          },
          ["max_response_bytes"] = {
            ["$ref"] = "#/definitions/policy/properties/max_response_bytes",
          },
          ["mode"] = {
            ["$ref"] = "#/definitions/policy/properties/mode",
          },
          ["name"] = {
            ["description"] = "For logs and metrics; never part of a lookup key. Default: rules[i].",
            ["maxLength"] = 64,
            ["minLength"] = 1,
            ["pattern"] = "^[!-~]+$",
            ["type"] = "string",
          },
          ["namespace"] = {
            ["$ref"] = "#/definitions/policy/properties/namespace",
          },
          ["on_complete_failure"] = {
            ["$ref"] = "#/definitions/policy/properties/on_complete_failure",
          },
          ["on_service_failure"] = {
            ["$ref"] = "#/definitions/policy/properties/on_service_failure",
          },
          ["on_unknown"] = {
            ["$ref"] = "#/definitions/policy/properties/on_unknown",
          },
          ["outcomes"] = {
            ["$ref"] = "#/definitions/policy/properties/outcomes",
          },
          ["problems"] = {
            ["$ref"] = "#/definitions/policy/properties/problems",
          },
          ["replay_headers"] = {
            ["$ref"] = "#/definitions/policy/properties/replay_headers",
          },
          ["retry_after_s"] = {
            ["$ref"] = "#/definitions/policy/properties/retry_after_s",
          },
          ["scope"] = {
            ["$ref"] = "#/definitions/policy/properties/scope",
          },
          ["stream"] = {
            ["$ref"] = "#/definitions/policy/properties/stream",
          },
          ["ttl_ms"] = {
            ["$ref"] = "#/definitions/policy/properties/ttl_ms",
          },
          ["unknown_ttl_ms"] = {
            ["$ref"] = "#/definitions/policy/properties/unknown_ttl_ms",
          },
          ["wait_ms"] = {
            ["$ref"] = "#/definitions/policy/properties/wait_ms",
          },
        },
        ["required"] = {
          "match",
        },
        ["type"] = "object",
      },
      ["minItems"] = 1,
      ["type"] = "array",
    },
    ["service"] = {
      ["additionalProperties"] = false,
      ["description"] = "Where the idempotency service is.",
      ["properties"] = {
        ["authority"] = {
          ["default"] = "idempotencyd",
          ["description"] = "The :authority (Host) of callouts.",
          ["maxLength"] = 255,
          ["minLength"] = 1,
          ["pattern"] = "^[!-.0-~]+$",
          ["type"] = "string",
        },
        ["batch"] = {
          ["additionalProperties"] = false,
          ["description"] = "Operations of many requests share a callout when there are many.",
          ["properties"] = {
            ["max_in_flight"] = {
              ["default"] = 4,
              ["description"] = "Most shared callouts that are out at a time, per worker. 0: one callout for each operation.",
              ["maximum"] = 1000,
              ["minimum"] = 0,
              ["multipleOf"] = 1,
              ["type"] = "number",
            },
            ["max_operations"] = {
              ["default"] = 64,
              ["description"] = "Most operations in one callout. 32 where other WebAssembly filters share the chain.",
              ["maximum"] = 64,
              ["minimum"] = 1,
              ["multipleOf"] = 1,
              ["type"] = "number",
            },
          },
          ["type"] = "object",
        },
        ["target"] = {
          ["description"] = "Envoy: the name of the service's cluster. Kong: unix:/path, host, host:port or ip:port.",
          ["maxLength"] = 255,
          ["minLength"] = 1,
          ["not"] = {
            ["pattern"] = "://",
          },
          ["pattern"] = "^[!-~]+$",
          ["type"] = "string",
        },
        ["timeout_ms"] = {
          ["default"] = 1000,
          ["description"] = "Timeout of one callout; waits have their own. Must be less than lease_ms - lease_margin_ms of every rule.",
          ["maximum"] = 4294967295,
          ["minimum"] = 1,
          ["multipleOf"] = 1,
          ["type"] = "number",
        },
        ["tls"] = {
          ["default"] = false,
          ["description"] = "Kong: call the service over TLS. In Envoy, the cluster has the TLS settings.",
          ["type"] = "boolean",
        },
        ["token"] = {
          ["description"] = "Bearer token of the gateway role. Without it, callouts carry none.",
          ["maxLength"] = 4096,
          ["minLength"] = 1,
          ["pattern"] = "^[!-~]+$",
          ["type"] = "string",
        },
        ["token_env"] = {
          ["description"] = "The variable in the environment of the gateway's VM that has the token, in place of token. Envoy: vm_config.environment_variables. Kong: KONG_NGINX_MAIN_ENV.",
          ["maxLength"] = 128,
          ["minLength"] = 1,
          ["pattern"] = "^[A-Za-z0-9_]+$",
          ["type"] = "string",
        },
      },
      ["required"] = {
        "target",
      },
      ["type"] = "object",
    },
  },
  ["required"] = {
    "service",
    "rules",
  },
  ["title"] = "Idempotency Gateway: filter configuration",
  ["type"] = "object",
}
