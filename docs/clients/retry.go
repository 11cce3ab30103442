// Posts once, however often it has to ask. Go 1.19 or newer: go run retry.go URL KEY TIMEOUT
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const attempts = 6

// postOnce returns status, headers and body. The key names the operation: store it with the order before you call.
// The body is the same in each attempt.
func postOnce(url, key string, body []byte, timeout time.Duration) (int, http.Header, []byte, error) {
	client := &http.Client{Timeout: timeout}
	for attempt := 0; attempt < attempts; attempt++ {
		limit := 30 * time.Second
		if grown := 500 * time.Millisecond << attempt; grown < limit {
			limit = grown
		}
		pause := limit/2 + time.Duration(rand.Int63n(int64(limit/2)))
		request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return 0, nil, nil, err
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Idempotency-Key", key)
		// An error means: no answer. It may have been done, and only the same key is safe now.
		if answer, err := client.Do(request); err == nil {
			content, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err == nil {
				if answer.StatusCode < 400 || !mayBeSentAgain(answer, content) {
					return answer.StatusCode, answer.Header, content, nil
				}
				if told, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
					pause = time.Duration(told) * time.Second
				}
			}
		}
		time.Sleep(pause)
	}
	return 0, nil, nil, fmt.Errorf("no final answer to %s: ask again later, with the same key", key)
}

func mayBeSentAgain(answer *http.Response, content []byte) bool {
	if strings.HasPrefix(answer.Header.Get("Content-Type"), "application/problem+json") {
		var problem struct {
			Retryable *bool `json:"retryable"`
			ReuseKey  bool  `json:"reuse_key"`
		}
		if json.Unmarshal(content, &problem) == nil && problem.Retryable != nil {
			return *problem.Retryable && problem.ReuseKey
		}
	}
	switch answer.StatusCode {
	case 408, 425, 429, 502, 503, 504:
		return true
	}
	return false
}

func main() {
	seconds, err := strconv.ParseFloat(os.Args[3], 64)
	if err != nil {
		panic(err)
	}
	timeout := time.Duration(seconds * float64(time.Second))
	status, headers, body, err := postOnce(os.Args[1], os.Args[2], []byte(`{"amount":4200}`), timeout)
	if err != nil {
		panic(err)
	}
	var replayed *string
	if value := headers.Get("Idempotency-Replayed"); value != "" {
		replayed = &value
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"status": status, "replayed": replayed, "body": string(body)})
}
