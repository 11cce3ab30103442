//! The table of spellings: every form of a request that some upstream could take for another one
//! than the filter does, and what becomes of it. `docs/spellings.md` is printed from it, and the
//! end-to-end tests send each row.

use std::fmt::Write as _;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is answered with this status, and no upstream sees it.
    Refused(u16),
    /// It is the protected operation: executed once, then replayed.
    Protected,
    /// One of the two: what is in front of the filter may refuse it.
    AtMostOnce,
    /// It passes, without the field.
    Removed,
    /// It passes, each time. The operator has to close it.
    NotSeen,
}

/// One form of a request.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is odd about it, for the page.
    pub form: &'static str,
    /// The method.
    pub method: &'static str,
    /// The request target.
    pub target: &'static str,
    /// Header fields besides key, host and length.
    pub headers: &'static [(&'static str, &'static str)],
    /// Trailers; with them the body is chunked.
    pub trailers: &'static [(&'static str, &'static str)],
    /// On Envoy.
    pub envoy: Fate,
    /// On Kong.
    pub kong: Fate,
    /// Whether HTTP/2 can say this.
    pub http2: bool,
}

impl Row {
    const fn new(form: &'static str, target: &'static str, fate: Fate) -> Row {
        Row {
            form,
            method: "POST",
            target,
            headers: &[],
            trailers: &[],
            envoy: fate,
            kong: fate,
            http2: true,
        }
    }

    const fn header(
        target: &'static str,
        headers: &'static [(&'static str, &'static str)],
        fate: Fate,
    ) -> Row {
        let mut row = Row::new("", target, fate);
        row.headers = headers;
        row
    }

    /// Request trailers go no further than nginx.
    const fn trailer(
        target: &'static str,
        trailers: &'static [(&'static str, &'static str)],
        fate: Fate,
    ) -> Row {
        let mut row = Row::new("", target, fate);
        row.trailers = trailers;
        row.kong = Fate::AtMostOnce;
        row
    }

    const fn method(mut self, method: &'static str) -> Row {
        self.method = method;
        self
    }

    const fn kong(mut self, fate: Fate) -> Row {
        self.kong = fate;
        self
    }

    const fn http1(mut self) -> Row {
        self.http2 = false;
        self
    }
}

/// A part of the table.
#[derive(Debug)]
pub struct Group {
    /// What it is about.
    pub title: &'static str,
    /// What a reader must know.
    pub text: &'static str,
    /// Its rows.
    pub rows: &'static [Row],
}

use Fate::{AtMostOnce, NotSeen, Protected, Refused, Removed};

/// What could lead past a filter that is made only for requests that need it (`idempotencyd envoy-config`): sent
/// beside the table where it is. Envoy can match names of headers only as they are usually spelled.
pub const PAST: &[Row] = &[
    Row::header("/other", &[("X.Original.URL", "/charges")], Removed),
    Row::header("/other", &[("X-Original~URL", "/charges")], Removed),
    Row::header("/other", &[("x.rewrite-url", "/inline")], Removed),
    Row::header(
        "/other",
        &[("X-Original-URL", "/charges?\u{ff}")],
        Refused(400),
    ),
    Row::header(
        "/other",
        &[("X-Rewrite-URL", "/x"), ("X-Rewrite-URL", "/charges")],
        Refused(400),
    ),
    Row::header(
        "/other?a=1",
        &[("X-Original-URL", "/charges")],
        Refused(400),
    ),
    Row::header("/other", &[("Idempotency.Fence", "1")], Removed),
    Row::header("/other", &[("idempotency-unprotected", "")], Removed),
    Row::header("/other", &[("Idempotency~Proof", "1")], Removed),
    Row::trailer("/other", &[("X.Original.URL", "/charges")], Removed),
    Row::trailer("/other", &[("X-HTTP-Method", "DELETE")], Removed),
    Row::trailer("/other", &[("Idempotency.Record", "1")], Removed),
    Row::new("an empty query", "/charges?", Protected),
    Row::new("a query with a path in it", "/charges?/other", Protected),
    Row::new("a slash at the end", "/charges/", Protected),
    Row::new("a path in a query", "/other?/../charges", NotSeen),
    Row::new("a path in another segment", "/other/charges", NotSeen),
    Row::new("the beginning of a protected path", "/charge", NotSeen),
    Row::new(
        "another path that begins like it",
        "/charges-of-others",
        NotSeen,
    ),
];

/// The whole table. The rules: `POST` below `/charges` (detached), below `/inline`, below
/// `/optional` (`when_missing: pass`, and the rows send no key there), below `/static`
/// (`credentials: static`), at `/hosted` for the host `api.example`.
pub const TABLE: &[Group] = &[
    Group {
        title: "Paths",
        text: "Refused where a reading of the path may be a protected one; elsewhere such paths pass. A\n\
               path with a broken escape may be any path: methods that some rule protects are refused on\n\
               all of them.",
        rows: &[
            Row::new("an escape", "/%63harges", Protected),
            Row::new("dot segments", "/x/../charges", Protected),
            Row::new("several slashes", "//charges", Protected),
            Row::new("`%u`, which is no escape", "/%u0063harges", Refused(400)),
            Row::new("another broken escape", "/charges%zz", Refused(400)),
            Row::new("a dot at the end", "/charges.", Refused(400)),
            Row::new("a space at the end", "/charges%20", Refused(400)),
            Row::new("a space in front", "/%20charges", Refused(400)),
            Row::new("dots and spaces", "/charges%20./x", Refused(400)),
            Row::new("a fullwidth slash", "/charges%EF%BC%8Fx", Refused(400)),
            Row::new("a fullwidth letter", "/%EF%BD%83harges", Refused(400)),
            Row::new("a division slash", "/charges%E2%88%95x", Refused(400)),
            Row::new("a front controller", "/index.php/charges", Refused(400)),
            Row::new("the same, in capitals", "/INDEX.PHP/charges", Refused(400)),
            Row::new("an escaped slash", "/charges%2Fx", Refused(400)),
            Row::new("escaped twice", "/%2563harges", Refused(400)),
            Row::new("a path parameter", "/x/..;/charges", Refused(400)),
            Row::new("absolute form", "http://localhost/charges", Protected).kong(AtMostOnce).http1(),
            Row::new("another case", "/CHARGES", NotSeen),
            Row::new("a format as suffix", "/charges.json", NotSeen),
            Row::new("a prefix that a proxy behind the filter takes off", "/api/charges", NotSeen),
        ],
    },
    Group {
        title: "Headers that lead to another path or method",
        text: "A header that tells the request's own path, as some gateways add it, moves nothing.",
        rows: &[
            Row::header("/other", &[("X-Original-URL", "/charges")], Refused(400)),
            Row::header("/other", &[("X-Rewrite-URL", "/charges?a=1")], Refused(400)),
            Row::header("/other", &[("X_Original_URL", "/charges")], Removed).kong(Refused(400)),
            Row::header("/other", &[("X-Original-URL", "/x/..%2fcharges")], Refused(400)),
            Row::header("/charges", &[("X-Original-URL", "/inline")], Refused(400)),
            Row::header("/charges", &[("X-Original-URL", "/charges")], Protected),
            Row::header(
                "/other",
                &[("X-Original-URL", "/charges"), ("X-HTTP-Method-Override", "POST")],
                Refused(400),
            )
            .method("GET"),
            Row::header("/charges", &[("X-HTTP-Method-Override", "POST")], Refused(400)).method("GET"),
            Row::header("/charges", &[("X_HTTP_Method_Override", "POST")], Refused(400)).method("GET"),
            Row::header("/charges", &[("X-HTTP_Method-Override", "POST")], Refused(400)).method("PUT"),
            Row::header("/charges", &[("X_Method_Override", "POST")], Refused(400)).method("GET"),
            Row::header("/charges", &[("X.HTTP.Method", "POST")], Refused(400)).method("GET"),
            Row::header("/other", &[("X_HTTP_Method_Override", "DELETE")], Removed).kong(NotSeen),
            Row::header("/other", &[("X-Forwarded-Prefix", "/charges")], NotSeen),
        ],
    },
    Group {
        title: "Fields that only the gateway sends",
        text: "They never arrive from a client, in no spelling. On Kong a filter can remove nothing, so\n\
               that a forger is refused.",
        rows: &[
            Row::header("/charges", &[("Idempotency-Fence", "1")], Protected).kong(Refused(400)),
            Row::header("/charges", &[("Idempotency_Fence", "1")], Protected).kong(Refused(400)),
            Row::header("/inline", &[("Idempotency_Fence", "1")], Protected).kong(Refused(400)),
            Row::header("/inline", &[("Idempotency_Record", "key=x")], Protected).kong(Refused(400)),
            Row::header("/other", &[("Idempotency-Fence", "1")], Removed).kong(Refused(400)),
            Row::header("/other", &[("Idempotency_Fence", "1")], Removed).kong(Refused(400)),
            Row::header("/other", &[("Idempotency.Attempt", "1")], Removed).kong(Refused(400)),
            Row::header("/charges", &[("Idempotency-Record", "key=x")], Removed)
                .method("GET")
                .kong(Refused(400)),
            Row::header("/charges", &[("Idempotency_Unprotected", "x")], Removed)
                .method("GET")
                .kong(Refused(400)),
            Row::header("/optional", &[("Idempotency-Fence", "1")], Removed).kong(Refused(400)),
            Row::header("/optional", &[("Idempotency_Record", "key=x")], Removed).kong(Refused(400)),
            Row::trailer("/charges", &[("Idempotency-Fence", "1")], Protected),
            Row::trailer("/inline", &[("Idempotency-Fence", "1")], Protected),
            Row::trailer("/inline", &[("Idempotency_Record", "key=x")], Protected),
            Row::trailer("/other", &[("Idempotency-Fence", "1")], Removed).kong(Removed),
            Row::trailer("/other", &[("Idempotency_Attempt", "1")], Removed).kong(Removed),
            Row::trailer("/optional", &[("Idempotency_Fence", "1")], Removed).kong(Removed),
        ],
    },
    Group {
        title: "Other spellings of fields that the filter acts on",
        text: "These are the key's header, the tenant's, all that the fingerprint covers, `Content-*` and\n\
               `Transfer-Encoding`, method overrides, `X-Original-URL`, and `X-Envoy-*`. Any character that\n\
               is neither letter nor digit counts as a hyphen. On Kong, `kong.yml` drops header names with\n\
               an underscore before the filter sees them; the table is the filter alone.",
        rows: &[
            Row::header("/charges", &[("Idempotency_Key", "other")], Refused(400)),
            Row::header("/inline", &[("Content_Type", "text/plain")], Refused(400)),
            Row::header("/inline", &[("Content_Length", "0")], Refused(400)),
            Row::header("/inline", &[("Transfer_Encoding", "chunked")], Refused(400)),
            Row::header("/inline", &[("Content_Encoding", "gzip")], Refused(400)),
            Row::header("/inline", &[("Accept_Encoding", "gzip")], Refused(400)),
            Row::header("/charges", &[("X_Envoy_Retry_On", "5xx")], Refused(400)),
            Row::header("/other", &[("Idempotency_Key", "other")], Removed).kong(NotSeen),
            Row::header("/charges", &[("X_Other", "1")], Protected),
            Row::trailer("/charges", &[("Idempotency_Key", "other")], Refused(400)),
            Row::trailer("/inline", &[("Idempotency-Key", "other")], Refused(400)),
            Row::trailer("/inline", &[("Content-Type", "text/plain")], Refused(400)),
            Row::trailer("/inline", &[("X-HTTP-Method-Override", "PUT")], Refused(400)),
            Row::trailer("/other", &[("X_HTTP_Method_Override", "PUT")], Removed).kong(Removed),
            Row::trailer("/other", &[("X-Original-URL", "/charges")], Removed).kong(Removed),
            Row::trailer("/inline", &[("X-Checksum", "1")], Protected),
            Row::header("/inline", &[("Connection", "Idempotency-Key")], Refused(400)).http1(),
            Row::header("/inline", &[("Connection", "close, idempotency_key")], Protected).kong(Refused(400)).http1(),
            Row::header("/inline", &[("Connection", "content-type")], Protected).kong(Refused(400)).http1(),
        ],
    },
    Group {
        title: "Hosts",
        text: "",
        rows: &[
            Row::header("/hosted", &[("Host", "api.example")], Protected).http1(),
            Row::header("/hosted", &[("Host", "API.example.:80")], Protected).http1(),
            Row::header("/hosted", &[("Host", "user@api.example")], AtMostOnce).http1(),
            Row::header("/hosted", &[("Host", "api.example@other.example")], AtMostOnce).http1(),
            Row::header(
                "/hosted",
                &[("Host", "other.example"), ("X-Forwarded-Host", "api.example")],
                NotSeen,
            ),
        ],
    },
    Group {
        title: "Credentials, where they are the tenant",
        text: "One credential must be one tenant, or its owner has two scopes for one key.",
        rows: &[
            Row::header("/static", &[("Authorization", "Basic YTpiYw==")], Protected),
            Row::header("/static", &[("Authorization", "basic   YTpiYw==")], Protected),
            Row::header("/static", &[("Authorization", "Basic YTpiYw")], Refused(403)),
            Row::header("/static", &[("Authorization", "Basic YTpiYx==")], Refused(403)),
            Row::header("/static", &[("Authorization", "Bearer a, Bearer b")], Refused(403)),
            Row::header("/static", &[("Authorization", "Bearer eyJh.eyJz.AAB")], Refused(403)),
            Row::header(
                "/static",
                &[("Authorization", "Bearer a"), ("Authorization", "Bearer b")],
                Refused(403),
            ),
        ],
    },
    Group {
        title: "Framings",
        text: "The hosts refuse most of these before the filter sees them.",
        rows: &[
            Row::header("/inline", &[("Transfer-Encoding", "chunked"), ("Content-Length", "2")], AtMostOnce).http1(),
            Row::header("/inline", &[("Content-Length", "2"), ("Content-Length", "3")], AtMostOnce).http1(),
            Row::header("/inline", &[("Transfer-Encoding", "identity, chunked")], AtMostOnce).http1(),
            Row::header("/inline", &[("Transfer-Encoding ", "chunked")], AtMostOnce).http1(),
            Row::header("/inline", &[("X-A", "1\r\n Idempotency-Fence: 1")], AtMostOnce).http1(),
            Row::header("/inline", &[("Content-Length", "+2")], AtMostOnce).http1(),
        ],
    },
];

impl Group {
    fn print(&self, out: &mut String) {
        let _ = write!(
            out,
            "\n## {}\n\n{}\n\n| request | on Envoy | on Kong |\n|---|---|---|\n",
            self.title, self.text
        );
        for row in self.rows {
            let _ = writeln!(
                out,
                "| {} | {} | {} |",
                row,
                row.envoy.words(),
                row.kong.words()
            );
        }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{} {}`", self.method, self.target)?;
        for (name, value) in self.headers {
            let value = value.replace("\r\n", "⏎");
            write!(f, ", `{name}: {value}`")?;
        }
        for (name, value) in self.trailers {
            write!(f, ", trailer `{name}: {value}`")?;
        }
        match self.form {
            "" => Ok(()),
            form => write!(f, " ({form})"),
        }
    }
}

impl Fate {
    fn words(self) -> String {
        match self {
            Fate::Refused(status) => status.to_string(),
            Fate::Protected => "protected".to_owned(),
            Fate::AtMostOnce => "protected, or refused by the gateway".to_owned(),
            Fate::Removed => "passes without the field".to_owned(),
            Fate::NotSeen => "**not seen**".to_owned(),
        }
    }
}

/// `docs/spellings.md`.
pub fn page() -> String {
    let mut out = PREFACE.to_owned();
    for group in TABLE {
        group.print(&mut out);
    }
    out
}

const PREFACE: &str = "\
# Spellings: one request, written in many ways

<!-- Printed by `cargo run -p idempotency-e2e --example spellings_page`; the table is
`tests/src/spellings.rs`. -->

Upstreams do not agree on what a request says. This is the whole list of what the filter knows of
that, and what it makes of each form. The end-to-end tests send every row, over HTTP/1.1 and, where
it can say the same, HTTP/2, to an upstream that reads as leniently as any
(`tests/src/lenient.rs`): it reads header names as WSGI does, merges trailers into the headers,
believes every header that replaces method or path, and decodes paths until nothing is left.

- **protected**: it is the same operation as the plain form; executed once, then replayed.
- **a status**: it is refused with that status, and no upstream sees it.
- **passes without the field**: no rule protects the request; it goes on without that field.
- **not seen**: it passes as it is. Where your upstream reads it as a protected request, close it
  there: name it in a rule, or have the gateway refuse it.

The rules of the table: `POST` below `/charges` (detached), `/inline`, `/optional`
(`when_missing: pass`; these rows send no key), `/static` (`credentials: static`), and below
`/hosted` for the host `api.example`. A rule that only observes refuses nothing.

A real nginx, and so Kong, drops a field whose name has something else than letters, digits, hyphens and
underscores (`X.HTTP.Method`) before the filter sees it: such a request passes without the field, where
the column says 400. It ends an HTTP/2 connection that brings trailers, and refuses by itself, with 400, two
`Authorization` fields, a space before a colon, and a host that is not the authority; nothing is executed.
";
