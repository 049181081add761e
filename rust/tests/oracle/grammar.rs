// SPDX-License-Identifier: GPL-2.0

//! The grammar that heads are made of, each rule as a predicate over complete bytes.

/// A field: name and value, without the white space around the value.
pub type Field = (Vec<u8>, Vec<u8>);

/// tchar. RFC 9110 section 5.6.2.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// token = 1*tchar. RFC 9110 section 5.6.2.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_tchar(byte))
}

/// HTAB, SP, VCHAR or obs-text. RFC 9110 section 5.5.
pub fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' ' | 0x21..=0x7e | 0x80..=0xff)
}

/// Byte that this gateway takes in a request target: VCHAR, but not the one that begins a fragment.
pub fn is_target_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && byte != b'#'
}

/// Removes SP and HTAB at both ends: OWS. RFC 9110 section 5.6.3.
pub fn trim(text: &[u8]) -> &[u8] {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(first) = text.iter().position(|byte| !space(byte)) else {
        return b"";
    };
    let last = text.iter().rposition(|byte| !space(byte)).unwrap_or(first);
    &text[first..=last]
}

/// The elements of a list without the empty ones. RFC 9110 section 5.6.1.2.
///
/// Takes commas in quoted strings for separators: no list that is read here has an element that is
/// valid with a comma in it, and none is valid in pieces.
pub fn list(value: &[u8]) -> Vec<Vec<u8>> {
    value
        .split(|&byte| byte == b',')
        .map(|element| trim(element).to_vec())
        .filter(|element| !element.is_empty())
        .collect()
}

/// The values of all fields of this name, in order.
pub fn values(fields: &[Field], name: &str) -> Vec<Vec<u8>> {
    fields
        .iter()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value.clone())
        .collect()
}

/// One of these fields has a challenge, or credentials, of a scheme that authenticates the connection. RFC 9110 section
/// 11.6.1, RFC 4559.
///
/// A list with a quoted string that does not end counts as one that has.
pub fn binds(fields: &[Field], names: &[&str]) -> bool {
    names
        .iter()
        .flat_map(|name| values(fields, name))
        .any(|value| {
            // What is within quotes becomes one quote.
            let mut bare = Vec::new();
            let (mut quoted, mut escaped) = (false, false);
            for &byte in &value {
                match (quoted, escaped, byte) {
                    (true, true, _) => escaped = false,
                    (true, false, b'\\') => escaped = true,
                    (_, _, b'"') => {
                        quoted = !quoted;
                        bare.push(byte);
                    }
                    (true, _, _) => {}
                    (false, _, _) => bare.push(byte),
                }
            }
            let credentials = names.iter().any(|name| name.ends_with("authorization"));
            let parts = match credentials {
                true => vec![value],
                false => list(&bare),
            };
            quoted && !credentials
                || parts.iter().any(|part| {
                    let word = part.split(|&byte| byte == b' ' || byte == b'\t').next();
                    let word = word.unwrap_or_default().to_ascii_lowercase();
                    [&b"ntlm"[..], b"negotiate", b"nego2"].contains(&&word[..])
                })
        })
}

/// protocol = token ["/" token]. RFC 9110 section 7.8.
pub fn is_protocol(text: &[u8]) -> bool {
    let parts: Vec<&[u8]> = text.split(|&byte| byte == b'/').collect();
    parts.len() <= 2 && parts.iter().all(|part| is_token(part))
}

/// The name of extension-token *( ";" token [ "=" ( token | <"> token <"> ) ] ). RFC 6455 section 9.1.
///
/// White space is allowed around `;` only, and a quoted value is a token as it stands.
pub fn extension_name(text: &[u8]) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> = text.split(|&byte| byte == b';').map(trim).collect();
    let (name, parameters) = parts.split_first()?;
    let is_parameter = |parameter: &&[u8]| match parameter.iter().position(|&byte| byte == b'=') {
        None => is_token(parameter),
        Some(at) => {
            let value = &parameter[at + 1..];
            let unquoted = value
                .strip_prefix(b"\"")
                .and_then(|value| value.strip_suffix(b"\""))
                .unwrap_or(value);
            is_token(&parameter[..at]) && is_token(unquoted)
        }
    };
    (is_token(name) && parameters.iter().all(is_parameter)).then(|| name.to_vec())
}

/// host [ ":" port ], the host not empty and without a comma, the port empty or 1 to 65535 in at most five
/// digits. RFC 3986 section 3.2. Returns it without the colon of an empty port.
pub fn authority(text: &[u8]) -> Option<Vec<u8>> {
    let (host_is_good, rest) = if text.first() == Some(&b'[') {
        let end = text.iter().position(|&byte| byte == b']')?;
        let literal = &text[1..end];
        (is_ipv6(literal) || is_ipvfuture(literal), &text[end + 1..])
    } else {
        let end = text
            .iter()
            .position(|&byte| byte == b':')
            .unwrap_or(text.len());
        (is_name(&text[..end]), &text[end..])
    };
    match rest {
        [] | [b':'] if host_is_good => Some(text[..text.len() - rest.len()].to_vec()),
        [b':', port @ ..] if host_is_good && is_port(port) => Some(text.to_vec()),
        _ => None,
    }
}

/// sub-delims but the comma. RFC 3986 section 2.2.
fn is_delimiter(byte: u8) -> bool {
    b"!$&'()*+;=".contains(&byte)
}

/// "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" ), without a comma. RFC 3986 section 3.2.2.
fn is_ipvfuture(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let (Some([b'v' | b'V', version @ ..]), Some(address)) = (parts.next(), parts.next()) else {
        return false;
    };
    let good =
        |&byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) || is_delimiter(byte);
    !version.is_empty()
        && version.iter().all(u8::is_ascii_hexdigit)
        && !address.is_empty()
        && address.iter().all(good)
}

/// 1*( unreserved / pct-encoded / sub-delims ), without a comma. RFC 3986 sections 2.1 to 2.3 and 3.2.2.
fn is_name(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(&byte) = rest.first() {
        rest = match byte {
            b'%' if rest.len() >= 3 && rest[1..3].iter().all(u8::is_ascii_hexdigit) => &rest[3..],
            b'-' | b'.' | b'_' | b'~' => &rest[1..],
            _ if byte.is_ascii_alphanumeric() || is_delimiter(byte) => &rest[1..],
            _ => return false,
        };
    }
    !text.is_empty()
}

/// One to five digits, the number not 0 and below 2^16.
fn is_port(text: &[u8]) -> bool {
    number(text).is_some_and(|port| text.len() <= 5 && (1..65536).contains(&port))
}

/// IPv6address, which is at most 45 characters long. RFC 3986 section 3.2.2.
fn is_ipv6(text: &[u8]) -> bool {
    // An IPv4 address at the end is worth two groups.
    let last = text
        .iter()
        .rposition(|&byte| byte == b':')
        .map_or(0, |colon| colon + 1);
    let (groups, of_ipv4) = match is_ipv4(&text[last..]) {
        true => (&text[..last], 2),
        false => (text, 0),
    };
    let is_group =
        |group: &[u8]| matches!(group.len(), 1..=4) && group.iter().all(u8::is_ascii_hexdigit);
    // The number of groups in h16 *( ":" h16 ), or none.
    let count = |part: &[u8]| -> Option<usize> {
        if part.is_empty() {
            return Some(0);
        }
        let groups: Vec<&[u8]> = part.split(|&byte| byte == b':').collect();
        groups
            .iter()
            .all(|group| is_group(group))
            .then_some(groups.len())
    };
    let elided = groups.windows(2).position(|pair| pair == b"::");
    let Some(at) = elided else {
        // Before an IPv4 address stands a colon that separates it.
        let groups = match of_ipv4 {
            0 => groups,
            _ => groups.strip_suffix(b":").unwrap_or(b":"),
        };
        return count(groups) == Some(8 - of_ipv4);
    };
    let (left, right) = (&groups[..at], &groups[at + 2..]);
    let right = match (of_ipv4, right.is_empty()) {
        (0, _) | (_, true) => right,
        _ => match right.strip_suffix(b":") {
            None | Some(b"") => return false,
            Some(right) => right,
        },
    };
    match (count(left), count(right)) {
        // The elision stands for one group or more.
        (Some(left), Some(right)) => left + right + of_ipv4 <= 7,
        _ => false,
    }
}

/// Four dec-octets: numbers below 256 without leading zeros. RFC 3986 section 3.2.2.
fn is_ipv4(text: &[u8]) -> bool {
    let octets: Vec<&[u8]> = text.split(|&byte| byte == b'.').collect();
    octets.len() == 4
        && octets.iter().all(|octet| {
            let leading_zero = octet.len() > 1 && octet[0] == b'0';
            !leading_zero && octet.len() <= 3 && number(octet).is_some_and(|number| number < 256)
        })
}

/// 1*DIGIT as a number, if it has no more than 32 digits.
pub fn number(text: &[u8]) -> Option<u128> {
    if text.is_empty() || text.len() > 32 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// 16 bytes in base64: 22 characters and `==`, the four bits of padding zero. RFC 4648 section 4.
pub fn is_key(text: &[u8]) -> bool {
    let character = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    text.len() == 24
        && text.ends_with(b"==")
        && text[..22].iter().all(character)
        && b"AQgw".contains(&text[21])
}
