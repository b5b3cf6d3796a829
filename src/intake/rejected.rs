//! Records that are bad in themselves: why, and what of them is kept.

/// Why a record can never become a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The record has no payload.
    Empty,
    /// Larger than 256 KiB.
    TooLarge,
    /// Not UTF-8.
    NotUtf8,
    /// Not JSON.
    NotJson,
    /// JSON, but not an object.
    NotObject,
    /// Nested beyond 32 levels.
    TooDeep,
    /// A NUL character or half of a surrogate pair, which PostgreSQL and Celery cannot carry.
    ForbiddenText,
    /// A field that we read has another type, or stands there twice.
    WrongType,
    /// No entry of `tickers` has a usable symbol.
    NoTicker,
    /// More than 1,000 tickers.
    TooManyTickers,
    /// A text that we read is longer than its limit.
    TooLong,
    /// The database cannot hold its text: a character that the database's encoding does not have.
    Unstorable,
}

impl Reason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 12] = [
        Self::Empty,
        Self::TooLarge,
        Self::NotUtf8,
        Self::NotJson,
        Self::NotObject,
        Self::TooDeep,
        Self::ForbiddenText,
        Self::WrongType,
        Self::NoTicker,
        Self::TooManyTickers,
        Self::TooLong,
        Self::Unstorable,
    ];

    /// The word in dead letters, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLarge => "too_large",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotObject => "not_an_object",
            Self::TooDeep => "too_deep",
            Self::ForbiddenText => "forbidden_text",
            Self::WrongType => "wrong_type",
            Self::NoTicker => "no_ticker",
            Self::TooManyTickers => "too_many_tickers",
            Self::TooLong => "too_long",
            Self::Unstorable => "unstorable",
        }
    }
}

/// A rejected record, whole, as it goes to the dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Why.
    pub reason: Reason,
    /// The partition it came from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its time, in milliseconds since 1970.
    pub time_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its payload.
    pub payload: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Rejected {
    /// Memory that it holds, in bytes, near enough to bound it.
    pub fn bytes(&self) -> usize {
        let of = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let header = |(name, value): &(String, Option<Vec<u8>>)| HEADER + name.len() + of(value);
        size_of::<Self>() + of(&self.key) + of(&self.payload) + self.headers.iter().map(header).sum::<usize>()
    }
}

/// What a header costs beside its text.
const HEADER: usize = size_of::<(String, Option<Vec<u8>>)>();
