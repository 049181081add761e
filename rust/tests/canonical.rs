// SPDX-License-Identifier: GPL-2.0

//! Hosts and paths as they are compared, however they arrive, and the trie against a search through
//! all keys.

#![allow(
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)] // A test may panic.

use squall::proto::canonical::{
    Host,
    Path,
    HOST_MAX, //
};
use squall::proto::error::Error;
use squall::proto::span::{
    Source,
    Span, //
};
use squall::proto::trie::{
    build,
    nodes_max,
    Node,
    Range,
    Trie, //
};

/// Bytes in fragments of this size.
struct Fragments<'a>(&'a [u8], usize);

impl Source for Fragments<'_> {
    fn bytes_at(&self, offset: u32) -> &[u8] {
        let offset = offset as usize;
        let end = (offset / self.1 + 1) * self.1;
        self.0
            .get(offset..end.min(self.0.len()))
            .unwrap_or_default()
    }
}

fn all(bytes: &[u8]) -> Span {
    Span::between(0, u16::try_from(bytes.len()).expect("a short text"))
}

fn host(authority: &str) -> Option<Vec<u8>> {
    let bytes = authority.as_bytes();
    let read = |size| {
        Host::from_authority(all(bytes), &Fragments(bytes, size)).map(|host| {
            let mut back: Vec<u8> = host.reversed().collect();
            back.reverse();
            assert_eq!(back, host.as_bytes());
            back
        })
    };
    let whole = read(usize::MAX / 2);
    for size in 1..4 {
        assert_eq!(read(size), whole, "{authority} in pieces of {size}");
    }
    whole
}

fn path(target: &str) -> Result<String, Error> {
    let bytes = target.as_bytes();
    let read = |size| -> Result<Vec<u8>, Error> {
        let src = Fragments(bytes, size);
        let read = Path::new(all(bytes), &src).collect::<Result<Vec<u8>, Error>>();
        assert_eq!(
            Path::new(all(bytes), &src).check(),
            read.clone().map(|_| ())
        );
        read
    };
    let whole = read(usize::MAX / 2);
    for size in 1..4 {
        assert_eq!(read(size), whole, "{target} in pieces of {size}");
    }
    whole.map(|bytes| bytes.iter().copied().map(char::from).collect())
}

#[test]
fn hosts() {
    let same: [(&str, &[u8]); 9] = [
        ("example.com", b"example.com"),
        ("EXAMPLE.Com:8080", b"example.com"),
        ("example.com.", b"example.com"),
        ("example.com.:80", b"example.com"),
        ("%65xample%2Ecom", b"example.com"),
        ("192.0.2.1:80", b"192.0.2.1"),
        ("a_b-c", b"a_b-c"),
        ("[::1]:80", b"[\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01]"),
        (
            "[2E2E:0:0:0:0:0:192.0.2.1]",
            b"[..\0\0\0\0\0\0\0\0\0\0\xc0\0\x02\x01]",
        ),
    ];
    for (authority, bytes) in same {
        assert_eq!(host(authority).as_deref(), Some(bytes), "{authority}");
    }
    assert_eq!(host("[2001:db8::1]"), host("[2001:DB8:0:0::0.0.0.1]:443"));
    for none in [
        ".", "..", ".com", "a..b", "a.b..", "a%2F.com", "a%00", "a~b", "",
    ] {
        assert_eq!(host(none), None, "{none}");
    }
    let longest = "a.".repeat(HOST_MAX / 2) + "a";
    assert_eq!(host(&longest).map(|host| host.len()), Some(HOST_MAX));
    assert_eq!(
        host(&format!("{longest}.:1")).map(|host| host.len()),
        Some(HOST_MAX)
    );
    assert_eq!(host(&format!("{longest}a")), None);
    assert_eq!(host(&"a".repeat(60_000)), None);
}

#[test]
fn paths() {
    let same = [
        ("", "/"),
        ("?q=/../", "/"),
        ("/", "/"),
        ("/api", "/api"),
        ("/api?x", "/api"),
        ("/api/?x", "/api/"),
        ("/%61p%69/X", "/api/X"),
        ("//api///x//", "/api/x/"),
        ("/api%2Fx%2f%2fy", "/api/x/y"),
        ("/api\\x%5c\\y", "/api/x/y"),
        ("/api;v=1/x;/y;a=b;c=d?e", "/api/x/y"),
        ("/;x/api", "/api"),
        ("/api;a%2Fx", "/api/x"),
        ("/api%3bx", "/api;x"),
        ("/a%3Fb%23", "/a?b#"),
        ("/a%2561", "/a%61"),
        ("/...", "/..."),
        ("/.a/..b/c..", "/.a/..b/c.."),
        ("/caf%C3%A9", "/caf\u{c3}\u{a9}"),
    ];
    for (target, read) in same {
        assert_eq!(path(target).as_deref(), Ok(read), "{target}");
    }
    for bad in [
        "/.",
        "/..",
        "/./a",
        "/a/../b",
        "/a/.?x",
        "/a/..?x",
        "/%2e%2E/a",
        "/.%2e/a",
        "/..%2fa",
        "/a%2f..%2fb",
        "/a\\..\\b",
        "/a/..;x/b",
        "/a/.;/b",
        "/a/..;",
        "/a%00",
        "/%",
        "/%4",
        "/%4?",
        "/%zz",
        "/a;%zz",
    ] {
        assert_eq!(path(bad), Err(Error::BadPath), "{bad}");
    }
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn text(&mut self) -> Vec<u8> {
        (0..self.below(9))
            .map(|_| b"ab/\xff"[self.below(4) as usize])
            .collect()
    }
}

#[test]
fn trie() {
    let mut numbers = Numbers(0x5eed);
    let mut found = 0;
    for round in 0..2000 {
        let count = round % 70;
        let mut keys: Vec<Vec<u8>> = (0..count).map(|_| numbers.text()).collect();
        keys.sort();
        keys.dedup();
        let mut ranges = Vec::new();
        let mut bytes = b"before".to_vec();
        for key in &keys {
            let (start, len) = (bytes.len() as u32, key.len() as u16);
            ranges.push(Range { start, len });
            bytes.extend(key);
        }
        let mut nodes = vec![Node::default(); nodes_max(keys.len())];
        let made = build(&ranges, &bytes, &mut nodes).expect("enough room");
        assert!(made <= nodes.len());
        let trie = Trie {
            nodes: &nodes[..made],
            bytes: &bytes,
        };
        for _ in 0..100 {
            let mut input = numbers.text();
            if let Some(key) = keys.get(numbers.below(80) as usize) {
                input.splice(0..0, key.iter().copied());
            }
            let fits =
                |last: Option<u8>, next: Option<u8>| last == Some(b'/') || next != Some(b'a');
            let slow = keys
                .iter()
                .enumerate()
                .filter(|(_, key)| input.starts_with(key))
                .filter(|(_, key)| fits(key.last().copied(), input.get(key.len()).copied()))
                .max_by_key(|(_, key)| key.len())
                .map(|(place, _)| place as u32);
            let fast = trie.longest(input.iter().copied(), |place, last, next| {
                assert_eq!(keys[place as usize].last().copied(), last);
                fits(last, next)
            });
            assert_eq!(fast, slow, "{input:?} among {keys:?}");
            found += u32::from(slow.is_some());
        }
    }
    assert!((20_000..180_000).contains(&found), "found {found} times");
}

#[test]
fn trie_of_what_cannot_be() {
    let bytes = b"abc";
    let mut nodes = [Node::default(); 4];
    let key = |start, len| Range { start, len };
    // The same key twice, more bytes than there are, and no room.
    assert_eq!(build(&[key(0, 1), key(0, 1)], bytes, &mut nodes), None);
    assert_eq!(build(&[key(0, 1), key(2, 9)], bytes, &mut nodes), None);
    assert_eq!(build(&[key(0, 1), key(1, 1)], bytes, &mut nodes[..2]), None);
    assert_eq!(build(&[], bytes, &mut nodes), Some(0));
    let empty = Trie { nodes: &[], bytes };
    assert_eq!(empty.longest(bytes.iter().copied(), |_, _, _| true), None);
}
