//! What the host knows of one request: its header maps, its buffers, and nginx's variables.

use bytes::Bytes;
use idempotency_filter::host::Map;
use idempotency_filter::testing::kong_reply;

/// Header fields in order, names as they were received.
pub type Fields = Vec<(Bytes, Bytes)>;

/// The client's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In memory.
    Buffered(Bytes),
    /// In a file, since it was larger than `client_body_buffer_size`: its size can be told, but
    /// the filter cannot read it.
    Spilled(Bytes),
}

impl Body {
    /// The bytes, for the upstream.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Body::Buffered(bytes) | Body::Spilled(bytes) => bytes,
        }
    }
}

/// One try to reach an upstream, as nginx's `$upstream_…` variables tell it.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// `$upstream_addr`.
    pub address: String,
    /// `$upstream_status`: the upstream's, or nginx's own 502 or 504.
    pub status: String,
    /// `$upstream_connect_time`; `None`: no connection.
    pub connect_time: Option<f64>,
    /// `$upstream_header_time`; `None`: no header was read, so the answer is nginx's own.
    pub header_time: Option<f64>,
}

/// A local reply, stashed until the callback is over.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    /// As the filter gave them.
    pub headers: Fields,
}

/// A request of a client.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Its method.
    pub method: Bytes,
    /// `$request_uri`: the target as received.
    pub target: Bytes,
    /// `$uri`: decoded and normalised.
    pub uri: Bytes,
    /// `$args`.
    pub args: Option<Bytes>,
    /// Where the listener is: what `:authority` is made of, and not of the client's `Host`.
    pub port: u16,
    /// `$request_id`.
    pub id: String,
    /// Request headers.
    pub request: Fields,
    /// The body, once it was read.
    pub body: Option<Body>,
    /// The response's status, once there is one.
    pub status: Option<u16>,
    /// Response headers.
    pub response: Fields,
    /// The piece of the response body that the filter is shown.
    pub piece: Bytes,
    /// What answers in place of the upstream.
    pub reply: Option<Reply>,
    /// The last try.
    pub upstream: Option<Upstream>,
    /// `$idempotency`, which `kong/idempotency-drain.conf` has, and the filter sets.
    pub told: Bytes,
}

/// Sets a field in place of all of its name.
pub fn set(fields: &mut Fields, name: &[u8], value: &[u8]) {
    kong_reply::set(fields, name, value);
}

/// Removes all fields of a name.
pub fn remove(fields: &mut Fields, name: &[u8]) {
    fields.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
}

/// The first value of a name, in any case of letters.
pub fn get<'a>(fields: &'a Fields, name: &[u8]) -> Option<&'a Bytes> {
    let mut found = fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value)
}

impl Stream {
    /// A header map as a filter is given it: pseudo headers first, cut off after 100.
    pub fn map(&self, map: Map) -> Fields {
        match map {
            Map::Request => {
                let pseudo = [
                    (":path".into(), self.path()),
                    (":method".into(), self.method.clone()),
                    (":scheme".into(), "http".into()),
                    (":authority".into(), format!("kong:{}", self.port).into()),
                ];
                kong_reply::map(&pseudo, &self.request)
            }
            _ => {
                let status = self.status.map(|status| format!("{status:03}").into());
                let pseudo: Vec<_> = status.map(|s| (":status".into(), s)).into_iter().collect();
                kong_reply::map(&pseudo, &self.response)
            }
        }
    }

    /// The normalised path with the query.
    pub fn path(&self) -> Bytes {
        match &self.args {
            Some(args) => [&self.uri[..], b"?", args].concat().into(),
            None => self.uri.clone(),
        }
    }

    /// The fields of a map, to be changed.
    pub fn fields(&mut self, map: Map) -> &mut Fields {
        match map {
            Map::Request => &mut self.request,
            _ => &mut self.response,
        }
    }

    /// Sets what is no ordinary header. False: it is one.
    pub fn set_pseudo(&mut self, map: Map, name: &[u8], value: &[u8]) -> bool {
        match (map, name) {
            (Map::Request, b":method") => self.method = Bytes::copy_from_slice(value),
            (Map::Response, b":status") => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                // One that is no status is ignored.
                self.status = text.parse().ok().or(self.status);
            }
            _ => return false,
        }
        true
    }

    /// A variable of nginx, without its `$`. `None`: it has no value.
    pub fn variable(&self, name: &str) -> Option<Bytes> {
        let host = || get(&self.request, b"host");
        let upstream = self.upstream.as_ref();
        let seconds = |time: Option<f64>| match time {
            Some(time) => format!("{time:.3}"),
            None => "-".to_owned(),
        };
        let text = match name {
            "request_uri" => return Some(self.target.clone()),
            "uri" | "document_uri" => return Some(self.uri.clone()),
            "args" | "query_string" => return self.args.clone(),
            "http_host" => return host().cloned(),
            "host" => {
                let host = host()?;
                let name = host.split(|b| *b == b':').next().unwrap_or_default();
                return Some(Bytes::copy_from_slice(&name.to_ascii_lowercase()));
            }
            "request_method" => return Some(self.method.clone()),
            "remote_addr" => "127.0.0.1".to_owned(),
            "idempotency" => return Some(self.told.clone()),
            "scheme" => "http".to_owned(),
            "request_id" | "kong_request_id" => self.id.clone(),
            "status" => self.status.map_or("000".to_owned(), |s| format!("{s:03}")),
            "request_body_file" => match &self.body {
                Some(Body::Spilled(_)) => "/var/client_body/0000000001".to_owned(),
                _ => String::new(),
            },
            "upstream_addr" => upstream?.address.clone(),
            "upstream_status" => upstream?.status.clone(),
            "upstream_connect_time" => seconds(upstream?.connect_time),
            "upstream_header_time" => seconds(upstream?.header_time),
            other => {
                let wanted = other.strip_prefix("http_")?.as_bytes();
                // nginx compares with hyphens as underscores, so that both spellings are found.
                let fold = |byte: &u8| match byte {
                    b'-' => b'_',
                    byte => byte.to_ascii_lowercase(),
                };
                let is_it = |name: &Bytes| name.iter().map(fold).eq(wanted.iter().copied());
                let mut fields = self.request.iter();
                let found = fields.find(|(name, _)| is_it(name));
                return found.map(|(_, value)| value.clone());
            }
        };
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream {
            method: "POST".into(),
            target: "/a%20b?x=%20".into(),
            uri: "/a b".into(),
            args: Some("x=%20".into()),
            port: 8000,
            request: vec![
                ("Host".into(), "Shop.example:80".into()),
                ("X-A".into(), "1".into()),
                ("x-a".into(), "2".into()),
            ],
            ..Stream::default()
        }
    }

    #[test]
    fn the_path_is_decoded_and_the_authority_is_not_the_clients() {
        let map = stream().map(Map::Request);
        assert_eq!(get(&map, b":path").unwrap(), "/a b?x=%20");
        assert_eq!(get(&map, b":authority").unwrap(), "kong:8000");
        assert_eq!(get(&map, b"host").unwrap(), "Shop.example:80");
        assert_eq!(
            map.iter()
                .filter(|(n, _)| n.eq_ignore_ascii_case(b"x-a"))
                .count(),
            2
        );
    }

    #[test]
    fn variables() {
        let mut stream = stream();
        let text = |stream: &Stream, name: &str| {
            stream
                .variable(name)
                .map(|v| String::from_utf8_lossy(&v).into_owned())
        };
        assert_eq!(
            text(&stream, "request_uri").as_deref(),
            Some("/a%20b?x=%20")
        );
        assert_eq!(text(&stream, "host").as_deref(), Some("shop.example"));
        assert_eq!(text(&stream, "http_x_a").as_deref(), Some("1"));
        let underscored = ("X_Under_Score".into(), "2".into());
        let mut spelled = stream.request.clone();
        spelled.push(underscored);
        let other = Stream {
            request: spelled,
            ..self::stream()
        };
        assert_eq!(text(&other, "http_x_under_score").as_deref(), Some("2"));
        assert_eq!(text(&stream, "upstream_header_time"), None, "never tried");
        stream.upstream = Some(Upstream {
            connect_time: Some(0.0014),
            ..Upstream::default()
        });
        assert_eq!(
            text(&stream, "upstream_connect_time").as_deref(),
            Some("0.001")
        );
        assert_eq!(text(&stream, "upstream_header_time").as_deref(), Some("-"));
    }
}
