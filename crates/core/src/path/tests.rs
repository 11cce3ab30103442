use super::*;
use proptest::prelude::*;
use Clarity::{Ambiguous, Odd, Plain};

#[test]
fn ordinary_reading() {
    for (raw, path, query, clarity) in [
        ("/charges", "/charges", "", Plain),
        ("/charges?a=1", "/charges", "a=1", Plain),
        ("/charges?", "/charges", "", Plain),
        ("/charges?a=/../b?c", "/charges", "a=/../b?c", Plain),
        ("/v1/a.b/c-d_e~f/@x:y", "/v1/a.b/c-d_e~f/@x:y", "", Plain),
        ("/", "/", "", Plain),
        ("/CHARGES/", "/CHARGES/", "", Plain),
        ("//charges", "/charges", "", Odd),
        ("/x//charges//", "/x/charges/", "", Odd),
        ("/x/../charges", "/charges", "", Odd),
        ("/x/%2e%2E/charges", "/charges", "", Odd),
        ("/../../charges", "/charges", "", Odd),
        ("/charges/.", "/charges/", "", Odd),
        ("/charges/x/..", "/charges/", "", Odd),
        ("/..", "/", "", Odd),
        ("/.well-known/x", "/.well-known/x", "", Odd),
        ("/%63harges", "/charges", "", Odd),
        ("/a%c3%bc%7e", "/a%C3%BC~", "", Odd),
        ("/a%20b", "/a%20b", "", Odd),
        ("/a|b", "/a%7Cb", "", Odd),
        ("/charges.", "/charges.", "", Odd),
        ("/v1./x", "/v1./x", "", Odd),
        ("/v1.2/x.y", "/v1.2/x.y", "", Plain),
        ("/index.php", "/index.php", "", Plain),
        ("/index.php/charges", "/index.php/charges", "", Odd),
        ("/x.PHP/charges", "/x.PHP/charges", "", Odd),
        ("/x.phps/charges", "/x.phps/charges", "", Plain),
        ("/charges%20", "/charges%20", "", Odd),
        ("/%u0063harges", "/%25u0063harges", "", Ambiguous),
        ("/charges;x=1", "/charges;x=1", "", Odd),
        ("/charges/..;/x", "/charges/..;/x", "", Odd),
        ("/a%252Fb", "/a%252Fb", "", Odd),
        ("/x%2f..%2fcharges", "/x%2F..%2Fcharges", "", Ambiguous),
        ("/x\\charges", "/x%5Ccharges", "", Ambiguous),
        ("/x%5ccharges", "/x%5Ccharges", "", Ambiguous),
        ("/charges%00", "/charges%00", "", Ambiguous),
        ("/charges%0a", "/charges%0A", "", Ambiguous),
        ("/charges%", "/charges%25", "", Ambiguous),
        ("/charges%zz", "/charges%25zz", "", Ambiguous),
        ("/charges x", "/charges%20x", "", Ambiguous),
        ("/ü", "/%C3%BC", "", Ambiguous),
        ("/%c0%afcharges", "/%C0%AFcharges", "", Ambiguous),
        ("/charges#a?b", "/charges", "", Ambiguous),
        ("/charges?a#b", "/charges", "a", Ambiguous),
        ("http://host/charges?a", "/charges", "a", Ambiguous),
        ("http://host", "/", "", Ambiguous),
        ("charges", "/charges", "", Ambiguous),
        ("*", "/*", "", Ambiguous),
        ("", "/", "", Ambiguous),
    ] {
        let got = normalise(raw.as_bytes());
        assert_eq!(
            (got.path.as_ref(), got.query, got.clarity),
            (path, query.as_bytes(), clarity),
            "{raw}"
        );
    }
}

#[test]
fn plain_paths_are_borrowed() {
    assert!(matches!(
        normalise(b"/v1/charges?x").path,
        Cow::Borrowed("/v1/charges")
    ));
}

/// (path, could match exact /charges, could match prefix /charges)
#[test]
fn readings() {
    for (raw, exact, prefix) in [
        ("/charges", true, true),
        ("/charges/", true, true),
        ("/charges/x", false, true),
        ("/other", false, false),
        ("/other/charges", false, false),
        ("/chargesx", false, false),
        ("/Charges", false, false),
        // encoded separators
        ("/x%2F..%2Fcharges", true, true),
        ("/charges%2Ffoo", false, true),
        ("/charges%2F", true, true),
        ("/%2Fcharges", true, true),
        ("/group%2Fcharges", false, false),
        ("/charges%5Cx", false, true),
        ("/charges\\..\\x", true, true),
        ("\\charges", true, true),
        // a reading that mixes: backslash is a slash, %2F is not
        ("/charges\\a%2F..%2F..", true, true),
        // decoded twice and more
        ("/%2563harges", true, true),
        ("/x%252F..%252Fcharges", true, true),
        ("/%25252563harges", true, true),
        // path parameters
        ("/charges;x=1", true, true),
        ("/;a/charges", true, true),
        ("/;a=b;c/charges;d/x", true, true),
        ("/charges%3Bx", true, true),
        ("/x/..;/charges", true, true),
        ("/charges/..;/", true, true),
        ("/charges/x;y", false, true),
        ("/;%2F%63harges/charges", true, true),
        ("/charges;%2Fx", true, true),
        ("/;charges/%63harges", true, true),
        ("/;charges", false, false),
        // cut
        ("/charges%00.png", true, true),
        ("/charges%0a", true, true),
        ("/charges%0D%0Ax-a:b", true, true),
        ("/charges%3Fx", true, true),
        ("/charges%23x", true, true),
        ("/charges#x", true, true),
        ("/x#/../charges", true, true),
        ("/x?/../charges", false, false),
        // merge first or resolve first
        ("/charges//..", true, true),
        ("/x//../charges", true, true),
        ("/charges/../x", true, true),
        ("/x/./charges", false, false),
        ("/./charges/.", true, true),
        // network-path reference and absolute-form
        ("//host/charges", true, true),
        ("/\\host/charges", true, true),
        ("http://host/charges", true, true),
        ("/http://host/charges", false, false),
        // dots and spaces at the end
        ("/charges.", true, true),
        ("/charges...", true, true),
        ("/charges%20", true, true),
        ("/%20charges", true, true),
        ("/charges%20.%20/x", false, true),
        ("/charges/...", true, true),
        ("/x/..%20/charges", true, true),
        ("/.charges", false, false),
        // scripts with a path behind them
        ("/index.php/charges", true, true),
        ("/app/index.php/charges", false, false),
        ("/INDEX.PHP/charges/x", false, true),
        ("/index.phps/charges", false, false),
        // characters that stand for ASCII ones
        ("/%ef%bc%8fcharges", true, true),
        ("/charges%e2%88%95x", false, true),
        ("/x%ef%bc%8f%ef%bc%8e%ef%bc%8e%ef%bc%bccharges", true, true),
        ("/%ef%bd%83harges", true, true),
        ("/charges%ef%bc%9fx", true, true),
        ("/%ef%bc%8563harges", true, true),
        // broken escapes
        ("/%u0063harges", true, true),
        ("/other/%u002e%u002e/charges", true, true),
        ("/x%u002fcharges", true, true),
        ("/other%", true, true),
        ("/%%36%33harges", true, true),
        ("/other%25", false, false),
        // overlong UTF-8, dropped line breaks
        ("/%c0%afcharges", true, true),
        ("/x/%c0%ae%c0%ae/charges", true, true),
        ("/cha\trges", true, true),
    ] {
        let readings = Readings::of(raw.as_bytes());
        let got = (
            readings.could_match(&PathMatch::Exact("/charges".into())),
            readings.could_match(&PathMatch::Prefix("/charges".into())),
        );
        assert_eq!(got, (exact, prefix), "{raw}");
        assert!(
            readings.could_match(&PathMatch::Prefix("/".into())),
            "{raw}"
        );
    }
}

#[test]
fn deeper_rules() {
    let rule = PathMatch::Prefix("/v1/a%20b".into());
    for (raw, want) in [
        ("/v1/a%20b", true),
        ("/v1/a%2520b/c", true),
        ("/v1;x/a%20b", true),
        ("/v1/x/a%20b", false),
        ("/v1/x/..%2Fa%20b", true),
        ("/a%20b/../v1", false),
    ] {
        assert_eq!(
            Readings::of(raw.as_bytes()).could_match(&rule),
            want,
            "{raw}"
        );
    }
}

#[test]
fn decoding_is_linear() {
    let nested = "%".to_owned() + &"25".repeat(1 << 20);
    assert_eq!(decode_fully(nested.as_bytes()), b"%");
}

/// What an upstream may do with a path, besides resolving dot segments.
#[derive(Clone, Debug)]
struct Upstream {
    decodes: u32,
    backslash: bool,
    cut: bool,
    merge: bool,
    parameters: Parameters,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Parameters {
    Kept,
    StrippedBeforeDecoding,
    StrippedAfterDecoding,
}

fn any_upstream() -> impl Strategy<Value = Upstream> {
    use Parameters::{Kept, StrippedAfterDecoding, StrippedBeforeDecoding};
    let parameters = prop_oneof![
        Just(Kept),
        Just(StrippedBeforeDecoding),
        Just(StrippedAfterDecoding)
    ];
    (0u32..3, any::<[bool; 3]>(), parameters).prop_map(
        |(decodes, [backslash, cut, merge], parameters)| Upstream {
            decodes,
            backslash,
            cut,
            merge,
            parameters,
        },
    )
}

fn strip_parameters(path: &str) -> String {
    let kept: Vec<_> = path
        .split('/')
        .filter_map(|s| s.split(';').next())
        .collect();
    kept.join("/")
}

/// The path that the upstream routes on.
fn routed(raw: &str, upstream: &Upstream) -> String {
    let mut path = raw.split('?').next().unwrap_or_default().to_owned();
    if upstream.parameters == Parameters::StrippedBeforeDecoding {
        path = strip_parameters(&path);
    }
    for _ in 0..upstream.decodes {
        let mut out = String::new();
        let mut rest = path.as_bytes();
        while let [b, tail @ ..] = rest {
            rest = tail;
            match (b, hex_pair(tail)) {
                (b'%', Some((d, after))) if d < 0x80 => {
                    rest = after;
                    out.push(char::from(d));
                }
                _ => out.push(char::from(*b)),
            }
        }
        path = out;
    }
    if upstream.backslash {
        path = path.replace('\\', "/");
    }
    if upstream.parameters == Parameters::StrippedAfterDecoding {
        path = strip_parameters(&path);
    }
    if let Some(end) = path.find(['\0', '?', '#']).filter(|_| upstream.cut) {
        path.truncate(end);
    }
    let mut kept = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "" if upstream.merge => {}
            "." => {}
            ".." => drop(kept.pop()),
            s => kept.push(s),
        }
    }
    kept.retain(|s| !s.is_empty());
    format!("/{}", kept.join("/"))
}

proptest! {
    #[test]
    fn never_panics_and_is_stable(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
        let once = normalise(&raw);
        let _ = Readings::of(&raw);
        prop_assert!(once.path.starts_with('/'));
        let again = normalise(once.path.as_bytes());
        prop_assert_eq!(&again.path, &once.path);
    }

    /// No upstream of the family above sees a protected path that the readings miss.
    #[test]
    fn no_reading_is_missed(
        parts in proptest::collection::vec(prop_oneof![
            Just("charges"), Just("x"), Just("/"), Just("//"), Just(".."), Just("."),
            Just("%2F"), Just("%252f"), Just("\\"), Just("%5C"), Just(";"), Just("%3b"),
            Just("%00"), Just("%3f"), Just("#"), Just("%2e"), Just("%63harges"), Just("%25"),
            Just("c"), Just("2e"),
        ], 0..9),
        upstream in any_upstream(),
    ) {
        let raw = format!("/{}", parts.concat());
        let seen = routed(&raw, &upstream);
        let readings = Readings::of(raw.as_bytes());
        let plain = normalise(raw.as_bytes()).clarity == Plain;
        if seen == "/charges" {
            prop_assert!(readings.could_match(&PathMatch::Exact("/charges".into())), "{raw}");
        }
        if seen == "/charges" || seen.starts_with("/charges/") {
            prop_assert!(readings.could_match(&PathMatch::Prefix("/charges".into())), "{raw}");
            if plain {
                let path = normalise(raw.as_bytes()).path.into_owned();
                prop_assert_eq!(path.trim_end_matches('/'), seen);
            }
        }
    }
}
