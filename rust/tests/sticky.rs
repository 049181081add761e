// SPDX-License-Identifier: GPL-2.0

//! The cookie or field by which requests are kept together, wherever the bytes of the head are cut.

#![allow(
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)] // A test may panic.

use squall::proto::h1::{
    HeadParser,
    Progress, //
};
use squall::proto::head::{
    LargeHead,
    Limits, //
};
use squall::proto::span::Source;
use squall::proto::sticky::{
    is_name,
    value,
    Named,
    NAME_MAX, //
};

/// Bytes in two fragments, or in fragments of one byte each.
struct Cut<'a>(&'a [u8], Option<usize>);

impl Source for Cut<'_> {
    fn bytes_at(&self, offset: u32) -> &[u8] {
        let offset = offset as usize;
        let end = match self.1 {
            Some(cut) if offset < cut => cut,
            Some(_) => self.0.len(),
            None => offset + 1,
        };
        self.0.get(offset..end).unwrap_or_default()
    }
}

/// What is found in a head with these field lines, which must be the same however it arrives.
fn found(lines: &[&str], named: Named<'_>) -> Option<String> {
    let text = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n",
        lines.join("\r\n")
    );
    let read = |cut: Option<usize>| {
        let mut parser = HeadParser::request();
        let mut head = LargeHead::new();
        let bytes = text.as_bytes();
        if let Some(cut) = cut {
            // What has come before the cut is parsed before the rest is there.
            let first = &bytes[..cut];
            let progress = parser.resume(first, &mut head, &Limits::DEFAULT);
            assert!(cut == bytes.len() || progress == Ok(Progress::NeedMore));
        }
        let src = Cut(bytes, cut);
        if cut != Some(bytes.len()) {
            let progress = parser.resume(&src, &mut head, &Limits::DEFAULT);
            assert!(matches!(progress, Ok(Progress::Done { .. })), "{text:?}");
        }
        let found = value(&head, named, &src)?;
        Some(found.bytes(&src).map(char::from).collect::<String>())
    };
    let whole = read(Some(text.len()));
    for cut in (0..text.len()).map(Some).chain([None]) {
        assert_eq!(read(cut), whole, "{text:?} cut at {cut:?}");
    }
    whole
}

fn cookie(lines: &[&str]) -> Option<String> {
    found(lines, Named::Cookie(b"sid"))
}

fn field(lines: &[&str]) -> Option<String> {
    found(lines, Named::Field(b"X-Room"))
}

#[test]
fn a_cookie_is_found_by_its_exact_name() {
    let some = |value: &str| Some(String::from(value));
    assert_eq!(cookie(&["Cookie: sid=abc"]), some("abc"));
    assert_eq!(cookie(&["cookie:sid=abc"]), some("abc"));
    assert_eq!(cookie(&["Cookie: a=b; sid=abc; c=d"]), some("abc"));
    assert_eq!(cookie(&["Cookie: a=b;sid=abc;c=d"]), some("abc"));
    assert_eq!(cookie(&["Cookie: \t sid \t=\t abc \t;;"]), some("abc"));
    assert_eq!(cookie(&["Cookie: sid=a=b=="]), some("a=b=="));
    assert_eq!(cookie(&["Cookie: sid=a b"]), some("a b"));
    // Quotes belong to a value, and do not hide a semicolon.
    assert_eq!(cookie(&["Cookie: sid=\"abc\""]), some("\"abc\""));
    assert_eq!(cookie(&["Cookie: a=\"b; sid=abc; c=d\""]), some("abc"));
    assert_eq!(cookie(&["Cookie: sid=\"a;b\""]), some("\"a"));
    for other in ["Sid", "SID", "xsid", "sidx", "si", "$sid", "s id", ""] {
        assert_eq!(cookie(&[&format!("Cookie: {other}=abc")]), None);
    }
    for none in [
        "sid",
        "sid;",
        "a=sid",
        "a=sid=b",
        "=sid",
        "",
        ";",
        "a=b; sid ;",
    ] {
        assert_eq!(cookie(&[&format!("Cookie: {none}")]), None, "{none:?}");
    }
    assert_eq!(cookie(&["Set-Cookie: sid=abc", "X-Cookie: sid=abc"]), None);
    assert_eq!(cookie(&["X: sid=abc"]), None);
}

#[test]
fn several_cookies_of_the_name_must_agree() {
    let some = Some(String::from("abc"));
    assert_eq!(cookie(&["Cookie: sid=abc; sid=abc"]), some);
    assert_eq!(cookie(&["Cookie: a=b", "X: y", "Cookie: sid=abc"]), some);
    assert_eq!(cookie(&["Cookie: sid=abc", "Cookie: sid=abc; a=b"]), some);
    assert_eq!(cookie(&["Cookie: sid=abc; sid=abd"]), None);
    assert_eq!(cookie(&["Cookie: sid=abc", "Cookie: sid=ab"]), None);
    assert_eq!(cookie(&["Cookie: sid=abc; sid=abd; sid=abc"]), None);
    assert_eq!(cookie(&["Cookie: sid="]), None);
    assert_eq!(cookie(&["Cookie: sid= ; sid="]), None);
    assert_eq!(cookie(&["Cookie: sid=; sid=abc"]), None);
    assert_eq!(cookie(&["Cookie: sid=abc; sid="]), None);
}

#[test]
fn a_field_is_found_in_any_case_and_must_agree() {
    let some = Some(String::from("abc, d"));
    assert_eq!(field(&["X-Room: abc, d"]), some);
    assert_eq!(field(&["x-rOOM:\t abc, d \t"]), some);
    assert_eq!(field(&["X-Room: abc, d", "A: b", "X-ROOM: abc, d"]), some);
    assert_eq!(field(&["X-Room: abc", "X-Room: d"]), None);
    assert_eq!(field(&["X-Room: abc", "X-Room:"]), None);
    assert_eq!(field(&["X-Room:", "X-Room: "]), None);
    assert_eq!(field(&["X-Rooms: abc", "X-Roo: abc", "X_Room: abc"]), None);
    // Also one that the gateway knows, and one of its own lines.
    let by = |name| found(&["Authorization: me"], Named::Field(name));
    assert_eq!(by(b"authorization").as_deref(), Some("me"));
    assert_eq!(by(b"host").as_deref(), Some("a"));
}

#[test]
fn names_are_tokens_of_limited_length() {
    for name in ["a", "JSESSIONID", "__Host-sid", "!#$%&'*+-.^_`|~09"] {
        assert!(is_name(name.as_bytes()), "{name}");
    }
    for name in [
        "", "a b", "a=", "a;", "a,b", "a:", "\"a\"", "ä", "a\n", "a\0",
    ] {
        assert!(!is_name(name.as_bytes()), "{name:?}");
    }
    assert!(is_name(&[b'x'; NAME_MAX]));
    assert!(!is_name(&[b'x'; NAME_MAX + 1]));
}
