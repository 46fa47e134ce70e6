//! Why a token was refused, in one word each: for the log, the metric and `weir token check`.
//!
//! Knows the words; clients are told none of them.

use std::fmt;

/// Declares the reasons with their words.
macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $Reason:ident = $word:literal; )+) => {
        /// One of a few fixed words, never what the client sent.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $( $(#[doc = $doc])+ $Reason, )+ }

        impl Reason {
            pub const ALL: &[Reason] = &[$( Reason::$Reason ),+];

            pub const fn as_str(self) -> &'static str {
                match self { $( Reason::$Reason => $word, )+ }
            }
        }
    };
}

reasons! {
    /// A token in the clear is anybody's.
    NoTls = "no_tls";
    /// Nothing was sent.
    Empty = "empty";
    /// More than `max_token_bytes`.
    TooLong = "too_long";
    /// A byte that is not printable ASCII, spaces included.
    BadByte = "bad_byte";
    /// Not the shape of any token that is taken here: an ordinary password, another service's token.
    NotAToken = "not_a_token";
    /// A piece of the query that is no name=value.
    BadSegment = "bad_segment";
    /// A parameter of another name, or in another case.
    UnknownParam = "unknown_param";
    /// The same name twice, whatever the values.
    DuplicateParam = "duplicate_param";
    /// One that every token has.
    MissingParam = "missing_param";
    /// A + that may mean itself or a space.
    RawPlus = "raw_plus";
    /// A % without two hexadecimal digits behind it.
    BadPercentEncoding = "bad_percent_encoding";
    /// A decoded value is not UTF-8.
    BadUtf8 = "bad_utf8";
    /// A decoded value has control characters.
    ControlChar = "control_char";
    /// Anything but AWS4-HMAC-SHA256.
    WrongAlgorithm = "wrong_algorithm";
    /// Anything but `connect`.
    WrongAction = "wrong_action";
    /// Anything but `host`.
    WrongSignedHeaders = "wrong_signed_headers";
    /// The credential's scope, or the form of its key id.
    BadCredential = "bad_credential";
    /// Signed for another service.
    WrongService = "wrong_service";
    /// No date that ever is, or not in the form of SigV4.
    BadDate = "bad_date";
    /// The day in the scope is not that of the date.
    ScopeDateMismatch = "scope_date_mismatch";
    /// Not a plain number from 1 to 900.
    BadExpires = "bad_expires";
    /// Not 64 lower-case hexadecimal digits.
    BadSignatureForm = "bad_signature_form";
    /// There, and empty.
    EmptySecurityToken = "empty_security_token";
    /// A role's key without one.
    MissingSecurityToken = "missing_security_token";
    /// A user's key with one.
    UnexpectedSecurityToken = "unexpected_security_token";
    /// Made for another user than the one who comes with it.
    UserMismatch = "user_mismatch";
    /// Made for an endpoint that is not one of those allowed.
    HostMismatch = "host_mismatch";
    /// Signed for a region that is not one of those allowed.
    WrongRegion = "wrong_region";
    /// Over, by its own account.
    Expired = "expired";
    /// Begins later than a wrong clock explains.
    Future = "future";
    /// No such key, or one that is not active.
    UnknownKey = "unknown_key";
    /// Not the one that belongs to the key.
    WrongSecurityToken = "wrong_security_token";
    /// Not made with this key over these fields.
    BadSignature = "bad_signature";
    /// Three parts, but not of a JSON web token.
    BadJwt = "bad_jwt";
    /// Of nobody whose tokens are taken.
    WrongIssuer = "wrong_issuer";
    /// Made for somebody else.
    WrongAudience = "wrong_audience";
    /// Made to live longer than is allowed, or to end before it begins.
    BadLifetime = "bad_lifetime";
    /// Whoever made it may not be this user there.
    NotMapped = "not_mapped";
    /// STS does not know it: another user's or another Weir's, or never signed at all.
    RefusedBySts = "refused_by_sts";
    /// An account's root user, who may be nobody.
    Root = "root";
    /// Aurora does not let in this user with it.
    RefusedByAurora = "refused_by_aurora";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
