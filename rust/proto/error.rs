// SPDX-License-Identifier: GPL-2.0

//! Every rule that a message can break: its counter's name and the status that answers it.

/// Declares [`Error`] together with its tables, so that a rule is written down in one place.
macro_rules! errors {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal $status:literal;)*) => {
        /// A rule that a message broke. Nothing of such a message may be forwarded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Error {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Error {
            /// All rules, in the order of [`Error::index`].
            pub const ALL: &'static [Error] = &[$(Error::$variant,)*];

            /// Returns the stable name of the rule, as used for counters.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Error::$variant => $name,)*
                }
            }

            /// Returns the status code that answers a request which broke the rule.
            ///
            /// A response that broke any rule is answered to the client with 502.
            pub const fn status(self) -> u16 {
                match self {
                    $(Error::$variant => $status,)*
                }
            }

            /// Returns the meaning, one element for each line of the source.
            pub const fn meaning(self) -> &'static [&'static str] {
                match self {
                    $(Error::$variant => &[$($doc),*],)*
                }
            }

            /// Returns the rule's place in [`Error::ALL`], for a table of counters.
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

errors! {
    /// The head is longer than its limit (`head_max`). RFC 6585 section 5.
    HeadTooLarge "head_too_large" 431;
    /// The start line is longer than its limit (`request_line_max`). RFC 9110 section 15.5.15.
    StartLineTooLong "start_line_too_long" 414;
    /// A field line is longer than its limit (`field_line_max`). RFC 6585 section 5.
    FieldLineTooLong "field_line_too_long" 431;
    /// There are more fields than the limit (`fields_max`). RFC 6585 section 5.
    TooManyFields "too_many_fields" 431;
    /// The method is empty or not a token. RFC 9112 section 3.1.
    BadMethod "bad_method" 400;
    /// The request target has a byte that no request target has. RFC 9112 section 3.2.
    BadTargetByte "bad_target_byte" 400;
    /// The protocol version is not `HTTP/` digit `.` digit. RFC 9112 section 2.3.
    BadVersion "bad_version" 400;
    /// The protocol's major version is not 1. RFC 9110 section 15.6.6.
    UnsupportedVersion "unsupported_version" 505;
    /// The status code is not three digits from 100 to 999. RFC 9110 section 15.
    BadStatus "bad_status" 502;
    /// The reason phrase has a control byte. RFC 9112 section 4.
    BadReason "bad_reason" 502;
    /// A line does not end with CR LF. RFC 9112 section 2.2.
    BadLineEnd "bad_line_end" 400;
    /// A field name is empty, not a token, or not followed by a colon at once. RFC 9112 section 5.1.
    BadFieldName "bad_field_name" 400;
    /// A field value has a control byte. RFC 9110 section 5.5.
    BadFieldValue "bad_field_value" 400;
    /// A line begins with white space: obsolete line folding. RFC 9112 section 5.2.
    Folded "folded" 400;
    /// The method is CONNECT, which this gateway does not support. RFC 9110 section 9.3.6.
    ConnectMethod "connect_method" 501;
    /// The request target has none of the forms that its method may have. RFC 9112 section 3.2.
    BadTarget "bad_target" 400;
    /// An absolute request target's scheme is none of http, https, ws, wss. RFC 9112 section 3.2.2.
    BadScheme "bad_scheme" 400;
    /// The authority of the request target or of Host is not host[:port]. RFC 9110 section 7.2.
    BadAuthority "bad_authority" 400;
    /// There is no Host field in a request of HTTP/1.1. RFC 9112 section 3.2.
    NoHost "no_host" 400;
    /// There is more than one Host field. RFC 9112 section 3.2.
    ManyHosts "many_hosts" 400;
    /// Content-Length is not one decimal number below 2^63. RFC 9110 section 8.6.
    BadContentLength "bad_content_length" 400;
    /// There is more than one Content-Length field. RFC 9112 section 6.3.
    ManyContentLengths "many_content_lengths" 400;
    /// There are both Content-Length and Transfer-Encoding. RFC 9112 section 6.3.
    LengthAndCoding "length_and_coding" 400;
    /// Transfer-Encoding is not a list of codings that ends with its only `chunked`. RFC 9112 section 6.3.
    BadTransferEncoding "bad_transfer_encoding" 400;
    /// There are transfer codings before `chunked`. This gateway knows none of them. RFC 9112 section 6.1.
    UnknownCoding "unknown_coding" 501;
    /// There is more than one Transfer-Encoding field. RFC 9112 section 6.1.
    ManyTransferEncodings "many_transfer_encodings" 400;
    /// Transfer-Encoding in a message of HTTP/1.0. RFC 9112 section 6.1.
    CodingInHttp10 "coding_in_http10" 400;
    /// A POST or PUT of HTTP/1.0 without Content-Length. RFC 1945 section 7.2.2.
    NoLength "no_length" 400;
    /// There are more interim responses to one request than the gateway passes on. RFC 9110 section 15.2.
    TooManyInterim "too_many_interim" 502;
    /// The Connection field is not a list of tokens. RFC 9110 section 7.6.1.
    BadConnection "bad_connection" 400;
    /// Connection names more options than are remembered.
    TooManyOptions "too_many_options" 400;
    /// Expect has a value other than `100-continue`. RFC 9110 section 10.1.1.
    BadExpect "bad_expect" 417;
    /// Max-Forwards of an OPTIONS or TRACE is not one decimal number. RFC 9110 section 7.6.2.
    BadMaxForwards "bad_max_forwards" 400;
    /// An OPTIONS or TRACE whose Max-Forwards is 0: this gateway would have to answer it. RFC 9110 section 7.6.2.
    LastForward "last_forward" 501;
    /// An upgrade offer whose Upgrade field is not a list of protocols. RFC 9110 section 7.8.
    BadUpgrade "bad_upgrade" 400;
    /// An upgrade offer without exactly one Sec-WebSocket-Key of 1 to 64 visible characters; or, as a
    /// flaw, one whose key is not 16 bytes in base64. RFC 6455 section 4.1.
    BadKey "bad_key" 400;
    /// An upgrade offer without exactly one Sec-WebSocket-Version. RFC 6455 section 4.1.
    NoWsVersion "no_ws_version" 400;
    /// An upgrade offer for a version other than 13. RFC 6455 section 4.4.
    WsVersion "ws_version" 426;
    /// Sec-WebSocket-Protocol is not a list of tokens, or is an empty one. RFC 6455 section 4.1.
    BadSubprotocol "bad_subprotocol" 400;
    /// Sec-WebSocket-Extensions is not a list of extensions. RFC 6455 section 9.1.
    BadExtension "bad_extension" 400;
    /// An upgrade offer has more subprotocols and extensions than are remembered, 22.
    OfferTooLarge "offer_too_large" 431;
    /// The server switches protocols although the client did not offer it. RFC 9110 section 15.2.2.
    UnaskedSwitch "unasked_switch" 502;
    /// A 101 whose Upgrade is not exactly one `websocket`. RFC 6455 section 4.1.
    SwitchProtocol "switch_protocol" 502;
    /// A 101 without `upgrade` in Connection. RFC 6455 section 4.1.
    SwitchConnection "switch_connection" 502;
    /// A 101 without exactly one Sec-WebSocket-Accept equal to the one computed. RFC 6455 section 4.1.
    SwitchAccept "switch_accept" 502;
    /// A 101 with a subprotocol that was not offered. RFC 6455 section 4.1.
    SwitchSubprotocol "switch_subprotocol" 502;
    /// A 101 with an extension that was not offered. RFC 6455 section 4.1.
    SwitchExtension "switch_extension" 502;
    /// A chunk size is not 1 to 16 hexadecimal digits. RFC 9112 section 7.1.
    BadChunkSize "bad_chunk_size" 400;
    /// A chunk extension is malformed. RFC 9112 section 7.1.1.
    BadChunkExtension "bad_chunk_extension" 400;
    /// The chunk-size line is longer than its limit (`chunk_line_max`). RFC 9112 section 7.1.1.
    ChunkLineTooLong "chunk_line_too_long" 400;
    /// Chunk extensions outweigh the content by more than the limit (`chunk_excess_max`). RFC 9112 section 7.1.1.
    ChunkExcess "chunk_excess" 400;
    /// The content is longer than its limit (`body_max_kib`). RFC 9110 section 15.5.14.
    BodyTooLarge "body_too_large" 413;
    /// The connection ended before the message did. RFC 9112 section 8.
    Truncated "truncated" 400;
    /// The path would have to select a route, but cannot be compared: it has a segment `.` or `..`, `%00`, or a `%` that encodes nothing.
    BadPath "bad_path" 400;
}

impl Error {
    /// Returns whether the server has failed if its response breaks the rule: what it sent is not a response, or cannot
    /// be read to its end. Responses that break other rules are refused only because forwarding them is not safe. Other
    /// proxies may forward them, so they are not the server's failure.
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Error::BadVersion
                | Error::UnsupportedVersion
                | Error::BadStatus
                | Error::UnaskedSwitch
                | Error::SwitchProtocol
                | Error::SwitchConnection
                | Error::SwitchAccept
                | Error::BadChunkSize
                | Error::Truncated
        )
    }

    /// Returns whether only an upgrade offer can break the rule.
    pub const fn is_of_offer(self) -> bool {
        matches!(
            self,
            Error::BadUpgrade
                | Error::BadKey
                | Error::NoWsVersion
                | Error::WsVersion
                | Error::BadSubprotocol
                | Error::BadExtension
                | Error::OfferTooLarge
        )
    }
}
