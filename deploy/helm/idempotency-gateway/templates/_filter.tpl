{{/* The variables of the gateway's container that the filter reads, commas between them. */}}
{{- define "idempotency.variables" -}}
{{- $filter := .Values.filter -}}
{{- $names := list -}}
{{- if and $filter.tokenEnv (not $filter.token) -}}
{{- $names = append $names $filter.tokenEnv -}}
{{- end -}}
{{- if $filter.hop.keyEnv -}}
{{- $names = append $names $filter.hop.keyEnv -}}
{{- end -}}
{{- join ", " $names -}}
{{- end }}

{{/* The filter's own configuration, as JSON. Takes a dict of the root (`root`) and the cluster of the service (`target`). */}}
{{- define "idempotency.filterConfig" -}}
{{- $filter := .root.Values.filter -}}
{{- $service := dict "target" .target "timeout_ms" 1000 -}}
{{- if $filter.token -}}
{{- $_ := set $service "token" $filter.token -}}
{{- else if $filter.tokenEnv -}}
{{- $_ := set $service "token_env" $filter.tokenEnv -}}
{{- end -}}
{{- $config := dict "service" $service "rules" $filter.rules -}}
{{- if $filter.hop.keyEnv -}}
{{- $_ := set $config "hop" (dict "key_env" $filter.hop.keyEnv "last" $filter.hop.last) -}}
{{- end -}}
{{- if $filter.detached -}}
{{- $_ := set $config "detached" (dict "cluster" "idempotency_execution") -}}
{{- end -}}
{{- toPrettyJson $config -}}
{{- end }}

{{/* The filter as an HTTP filter of Envoy. */}}
{{- define "idempotency.filter" -}}
name: idempotency
typed_config:
  "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
  config:
    name: idempotency
    root_id: idempotency
    # Without this the filter sees no body before it decides; it then refuses protected requests.
    allow_on_headers_stop_iteration: true
    # If the filter cannot run, nothing passes.
    failure_policy: FAIL_CLOSED
    vm_config:
      vm_id: idempotency
      runtime: envoy.wasm.runtime.v8
      code: { local: { filename: {{ .root.Values.filter.file }} } }
      {{- with include "idempotency.variables" .root }}
      environment_variables: { host_env_keys: [{{ . }}] }
      {{- end }}
    configuration:
      "@type": type.googleapis.com/google.protobuf.StringValue
      value: |
        {{- include "idempotency.filterConfig" . | nindent 8 }}
{{- end }}

{{/* Where detached executions run: the gateway's own routes, behind an internal listener. Takes the name of the
     routes (`routes`). envoy/README.md says what each part is for. */}}
{{- define "idempotency.executionListener" -}}
name: idempotency_execution
internal_listener: {}
# Clients cannot use up what executions need.
ignore_global_conn_limit: true
per_connection_buffer_limit_bytes: 8388608
filter_chains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: idempotency_execution
      http_protocol_options: { enable_trailers: true }
      # The rule's execution_timeout_ms rules here.
      stream_idle_timeout: 0s
      # The filter adds a few headers to a request that may be at the limits already.
      max_request_headers_kb: 96
      common_http_protocol_options: { max_headers_count: 1000 }
      # The routes that the client's request would have taken.
      rds:
        config_source: { ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3 }
        route_config_name: {{ .routes }}
      # What Envoy answers itself is told from what an upstream answers.
      local_reply_config:
        mappers:
        - filter:
            status_code_filter:
              comparison:
                op: GE
                value: { default_value: 0, runtime_key: idempotency.no_such_key }
          headers_to_add:
          - header:
              key: x-idempotency-gateway-reply
              value: "%RESPONSE_CODE_DETAILS%"
            append_action: OVERWRITE_IF_EXISTS_OR_ADD
          - header:
              key: x-idempotency-gateway-sent
              value: "%UPSTREAM_WIRE_BYTES_SENT%"
            append_action: OVERWRITE_IF_EXISTS_OR_ADD
      http_filters:
      # A route's retry policy would execute one request several times.
      - name: no-retries
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
          mutations:
            request_mutations:
            - append:
                header: { key: x-envoy-max-retries, value: "0" }
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
      - name: envoy.filters.http.router
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          upstream_http_filters:
          - name: envoy.filters.http.header_mutation
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
              mutations:
                response_mutations:
                - remove: x-idempotency-gateway-reply
                - remove: x-idempotency-gateway-sent
                - append:
                    header: { key: x-idempotency-upstream, value: "1" }
                    append_action: OVERWRITE_IF_EXISTS_OR_ADD
          - name: envoy.filters.http.upstream_codec
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
{{- end }}

{{/* The way into it. */}}
{{- define "idempotency.executionCluster" -}}
name: idempotency_execution
type: STATIC
connect_timeout: 0.5s
load_assignment:
  cluster_name: idempotency_execution
  endpoints:
  - lb_endpoints:
    - endpoint:
        address: { envoy_internal_address: { server_listener_name: idempotency_execution } }
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    # HTTP/2: an upstream that breaks off is noticed at once.
    explicit_http_config: { http2_protocol_options: {} }
    # The marks come on top of an answer that may be at the limits already.
    common_http_protocol_options: { max_headers_count: 1000, max_response_headers_kb: 96 }
# How many detached executions may run at a time.
circuit_breakers:
  thresholds:
  - { max_connections: 10000, max_pending_requests: 10000, max_requests: 10000 }
{{- end }}

{{/* The way to the service, where no control plane makes one. */}}
{{- define "idempotency.serviceCluster" -}}
name: idempotency
type: STRICT_DNS
connect_timeout: 0.5s
load_assignment:
  cluster_name: idempotency
  endpoints:
  - lb_endpoints:
    - endpoint:
        address:
          socket_address: { address: {{ include "idempotency.host" . }}, port_value: 7480 }
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: { http2_protocol_options: {} }
# The default, 1024 requests at a time, is few when duplicates wait.
circuit_breakers:
  thresholds:
  - { max_connections: 10000, max_pending_requests: 10000, max_requests: 10000 }
{{- with .Values.filter }}
{{- if $.Values.tls.secret }}
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    sni: {{ include "idempotency.name" $ }}
    common_tls_context:
      # Without it, Envoy speaks no TLS 1.3 to its clusters.
      tls_params: { tls_maximum_protocol_version: TLSv1_3 }
      {{- if $.Values.tls.clients }}
      # Read when the cluster is made: a renewed one needs the proxies started anew (envoy/tls.yaml has a way without).
      tls_certificates:
      - certificate_chain: { filename: {{ .tlsDirectory }}/tls.crt }
        private_key: { filename: {{ .tlsDirectory }}/tls.key }
      {{- end }}
      validation_context:
        trusted_ca: { filename: {{ .tlsDirectory }}/ca.crt }
        # Without the name, any certificate of that authority would do.
        match_typed_subject_alt_names:
        - { san_type: DNS, matcher: { exact: {{ include "idempotency.name" $ }} } }
{{- end }}
{{- end }}
{{- end }}
