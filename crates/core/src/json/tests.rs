use super::*;
use proptest::prelude::*;

#[test]
fn values() {
    let n = |s: &str| Value::Number(s.into());
    let s = |s: &str| Value::String(s.into());
    for (text, want) in [
        ("null", Value::Null),
        (" true\r\n", Value::Bool(true)),
        ("false", Value::Bool(false)),
        ("-0.10e+07", n("-0.10e+07")),
        ("9007199254740993", n("9007199254740993")),
        (r#""a\u00e9\ud83d\ude00\/\n""#, s("aé😀/\n")),
        ("[]", Value::Array(vec![])),
        (
            "[1 , [2]]",
            Value::Array(vec![n("1"), Value::Array(vec![n("2")])]),
        ),
        ("{ }", Value::Object(vec![])),
        ("\u{feff}[]", Value::Array(vec![])),
        ("\"\u{feff}\"", s("\u{feff}")),
        (
            r#"{"b":1,"a":""}"#,
            Value::Object(vec![("b".into(), n("1")), ("a".into(), s(""))]),
        ),
    ] {
        assert_eq!(parse(text.as_bytes()), Ok(want), "{text}");
    }
}

#[test]
fn faults() {
    for (text, fault) in [
        (&b""[..], Fault::UnexpectedEnd),
        (b"{\"a\":1", Fault::UnexpectedEnd),
        (b"[1,]", Fault::UnexpectedCharacter),
        (b"{,}", Fault::UnexpectedCharacter),
        (b"nul", Fault::UnexpectedCharacter),
        (b"+1", Fault::UnexpectedCharacter),
        (b"1\xef\xbb\xbf", Fault::TrailingCharacters),
        (b"\xef\xbb\xbf\xef\xbb\xbf1", Fault::UnexpectedCharacter),
        (b"\xef\xbb\xbf", Fault::UnexpectedEnd),
        (b"\xff\xfe1\x00", Fault::InvalidUtf8),
        (b"\"\xff\"", Fault::InvalidUtf8),
        (br#""\x""#, Fault::InvalidEscape),
        (br#""\ud800""#, Fault::InvalidEscape),
        (br#""\ud800\u0041""#, Fault::InvalidEscape),
        (br#""\udc00""#, Fault::InvalidEscape),
        (br#"{"\ud800":1}"#, Fault::InvalidEscape),
        (br#""\ud800\u12""#, Fault::InvalidEscape),
        (br#""\u12"#, Fault::InvalidEscape),
        (b"\"\n\"", Fault::ControlCharacter),
        (b"01", Fault::InvalidNumber),
        (b"1.", Fault::InvalidNumber),
        (b"1e", Fault::InvalidNumber),
        (b"-", Fault::InvalidNumber),
        (br#"{"a":1,"\u0061":2}"#, Fault::DuplicateMember),
        (b"1 2", Fault::TrailingCharacters),
    ] {
        let got = parse(text).map_err(|e| e.fault);
        assert_eq!(got, Err(fault), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(
        parse(nested(MAX_DEPTH + 1).as_bytes()).map_err(|e| e.fault),
        Err(Fault::TooDeep)
    );
    assert!(parse("[".repeat(1 << 20).as_bytes()).is_err());
    // Width is not depth.
    assert!(parse(format!("[{}1]", "[],".repeat(1000)).as_bytes()).is_ok());
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&bytes);
    }

    /// What serde_json takes, we take, but for duplicates and depth; and the other way round.
    #[test]
    fn agrees_with_serde_json(text in r#"[\[\]{},:"a\\u0019eE.+ -]{0,24}|null|true"#) {
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match parse(text.as_bytes()) {
            Ok(_) => prop_assert!(theirs.is_ok() || text.contains(['e', 'E'])),
            Err(e) if e.fault == Fault::DuplicateMember => {}
            Err(_) => prop_assert!(theirs.is_err()),
        }
    }
}
