//! PostgreSQL's lexical rules, a byte at a time, so that a statement may arrive in pieces.
//!
//! Knows where words, strings, quoted names and comments begin and end; not what they say.

mod bytes;

use bytes::{
    Class, class, continues_word, folded, is_blank, is_newline, is_plain_text, skip, starts_word,
};

/// Longer words can't be a keyword or a function that matters; what is kept of them is their start.
const WORD_BYTES: usize = 64;
/// Nearly all words are this short.
const SHORT_BYTES: usize = 32;

/// A piece of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// An unquoted word in lower case, cut after 64 bytes.
    Word(&'a [u8]),
    /// A quoted identifier's content, cut after 64 bytes.
    Quoted(&'a [u8]),
    /// A string constant of any kind; what it says, if that is wanted and could be kept: it is short, and without
    /// escapes that another setting would read otherwise.
    Literal(Option<&'a [u8]>),
    /// Any other byte that is no blank: operators, digits, brackets, semicolons.
    Sign(u8),
    /// From here on the text could be read in two ways.
    Unsure,
}

/// Where tokens go.
pub trait Sink {
    fn token(&mut self, token: Token<'_>);

    /// Whether it matters what the string says that begins here.
    fn wants_text(&self) -> bool;
}

impl<F: FnMut(Token<'_>)> Sink for F {
    fn token(&mut self, token: Token<'_>) {
        self(token);
    }

    fn wants_text(&self) -> bool {
        true
    }
}

/// What became of a string's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// In `word`, so far.
    Kept,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    /// `'...'`: a backslash means something only with `standard_conforming_strings` off.
    Plain { backslash: bool },
    /// `E'...'`
    Escape { backslash: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Blank,
    Word,
    Minus,
    Slash,
    LineComment,
    /// Nested depth, and the byte before.
    BlockComment(u32, u8),
    Text(Quote),
    /// A quote inside a string: its end, or the first of two.
    TextQuote(Quote),
    /// Behind `E'...'`: on a later line it may go on, still with escapes.
    BehindEscape {
        newline: bool,
        comment: bool,
    },
    Name,
    NameQuote,
    /// `U&`, a string or a name with its own escapes may follow.
    Unicode,
    /// `$`, and the tag so far in `word`.
    DollarTag,
    /// Inside `$tag$`: how many bytes of the closing one have been seen.
    DollarText(usize),
    /// Nothing that follows is understood.
    Lost,
}

#[derive(Clone, Debug)]
pub struct Lexer {
    state: State,
    word: [u8; WORD_BYTES],
    word_bytes: usize,
    /// The byte before, inside a string.
    before: u8,
    content: Content,
}

impl Default for Lexer {
    fn default() -> Lexer {
        Lexer {
            state: State::Blank,
            word: [0; WORD_BYTES],
            word_bytes: 0,
            before: 0,
            content: Content::Unknown,
        }
    }
}

impl Lexer {
    /// Reads on; every token completed in `bytes` goes to `sink`.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8], sink: &mut impl Sink) {
        let mut rest = bytes;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = match self.state {
                State::Blank => match class(byte) {
                    Class::Blank => behind,
                    Class::Word => self.word_at_once(rest, sink),
                    Class::Sign => {
                        sink.token(Token::Sign(byte));
                        behind
                    }
                    Class::Digit => {
                        sink.token(Token::Sign(byte));
                        skip(rest, |byte| byte.is_ascii_digit())
                    }
                    Class::Opening => self.opening(byte, behind, sink),
                },
                State::Text(Quote::Plain { backslash: false }) if is_plain_text(byte) => {
                    let behind = skip(rest, is_plain_text);
                    let inside = rest.get(..rest.len() - behind.len()).unwrap_or_default();
                    self.before = inside.last().copied().unwrap_or_default();
                    if self.content == Content::Kept {
                        inside.iter().for_each(|&byte| self.keep(byte));
                    }
                    behind
                }
                _ => {
                    self.step(byte, sink);
                    behind
                }
            };
        }
    }

    /// A word that begins here; when all of it is here, it goes to `sink` without being kept.
    #[inline]
    fn word_at_once<'a>(&mut self, text: &'a [u8], sink: &mut impl Sink) -> &'a [u8] {
        let mut lower = [0; SHORT_BYTES];
        let mut bytes = 0;
        for (to, &from) in lower.iter_mut().zip(text) {
            *to = folded(from);
            if *to == 0 {
                break;
            }
            bytes += 1;
        }
        let word = lower.get(..bytes).unwrap_or_default();
        let behind = text.get(bytes..).unwrap_or_default();
        let prefix = bytes == 1 && matches!(behind.first(), Some(b'\'' | b'&'));
        if bytes == SHORT_BYTES || behind.is_empty() || prefix {
            return self.keep_word(text);
        }
        sink.token(Token::Word(word));
        behind
    }

    /// What opens something; a string or a quoted name that is all here goes to `sink` without being kept.
    #[inline]
    fn opening<'a>(&mut self, byte: u8, text: &'a [u8], sink: &mut impl Sink) -> &'a [u8] {
        let end = match byte {
            b'\'' => skip(text, is_plain_text),
            b'"' => skip(text, |byte| byte != b'"'),
            _ => &[],
        };
        match end {
            // Not if it might be the first of two, or is a backslash.
            [first, next, ..] if *first == byte && *next != byte => {
                let inside = text.get(..text.len() - end.len()).unwrap_or_default();
                sink.token(if byte == b'"' {
                    Token::Quoted(inside.get(..WORD_BYTES).unwrap_or(inside))
                } else {
                    let short = inside.len() <= WORD_BYTES;
                    Token::Literal((short && sink.wants_text()).then_some(inside))
                });
                end.get(1..).unwrap_or_default()
            }
            _ => {
                self.fresh(byte, sink);
                text
            }
        }
    }

    /// A word that is long, or may go on in the next piece, or be the prefix of a string.
    fn keep_word<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        let behind = skip(text, continues_word);
        let word = text.get(..text.len() - behind.len()).unwrap_or_default();
        self.word_bytes = 0;
        word.iter().for_each(|&byte| self.push(folded(byte)));
        self.state = State::Word;
        behind
    }

    /// The text has ended: the last token is completed. There is no going on.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        self.step(b'\n', sink);
        if !matches!(
            self.state,
            State::Blank | State::BehindEscape { .. } | State::Lost
        ) {
            // Unterminated: PostgreSQL refuses it, whatever it says.
            sink.token(Token::Unsure);
        }
    }

    #[inline]
    fn step(&mut self, byte: u8, sink: &mut impl Sink) {
        match self.state {
            State::Blank => self.fresh(byte, sink),
            State::Word if continues_word(byte) => self.push(byte.to_ascii_lowercase()),
            State::Word => self.end_word(byte, sink),
            State::Text(quote) => self.in_text(quote, byte, sink),
            State::TextQuote(quote) => self.behind_quote(quote, byte, sink),
            State::LineComment if is_newline(byte) => self.state = State::Blank,
            State::LineComment | State::Lost => {}
            State::BlockComment(depth, before) => self.in_comment(depth, before, byte),
            State::Minus if byte == b'-' => self.state = State::LineComment,
            State::Minus => self.sign_then(b'-', byte, sink),
            State::Slash if byte == b'*' => self.state = State::BlockComment(1, 0),
            State::Slash => self.sign_then(b'/', byte, sink),
            State::BehindEscape { newline, comment } => {
                self.behind_escape(newline, comment, byte, sink);
            }
            State::Name if byte == b'"' => self.state = State::NameQuote,
            State::Name => self.push(byte),
            State::NameQuote if byte == b'"' => {
                self.push(byte);
                self.state = State::Name;
            }
            State::NameQuote => {
                sink.token(Token::Quoted(self.word()));
                self.fresh(byte, sink);
            }
            State::Unicode => self.behind_unicode(byte, sink),
            State::DollarTag => self.in_dollar_tag(byte, sink),
            State::DollarText(seen) => self.in_dollar_text(seen, byte, sink),
        }
    }

    /// A byte where a token may begin.
    fn fresh(&mut self, byte: u8, sink: &mut impl Sink) {
        self.word_bytes = 0;
        self.state = match byte {
            b'\'' => self.open_text(Quote::Plain { backslash: false }, sink),
            b'"' => State::Name,
            b'-' => State::Minus,
            b'/' => State::Slash,
            b'$' => State::DollarTag,
            _ if starts_word(byte) => {
                self.push(byte.to_ascii_lowercase());
                State::Word
            }
            _ if is_blank(byte) => State::Blank,
            _ => {
                sink.token(Token::Sign(byte));
                State::Blank
            }
        };
    }

    fn open_text(&mut self, quote: Quote, sink: &impl Sink) -> State {
        self.word_bytes = 0;
        self.content = if sink.wants_text() {
            Content::Kept
        } else {
            Content::Unknown
        };
        State::Text(quote)
    }

    fn sign_then(&mut self, sign: u8, byte: u8, sink: &mut impl Sink) {
        sink.token(Token::Sign(sign));
        self.fresh(byte, sink);
    }

    fn end_word(&mut self, byte: u8, sink: &mut impl Sink) {
        match (self.word(), byte) {
            (b"e", b'\'') => {
                self.state = self.open_text(Quote::Escape { backslash: false }, sink);
            }
            (b"u", b'&') => self.state = State::Unicode,
            _ => {
                sink.token(Token::Word(self.word()));
                self.fresh(byte, sink);
            }
        }
    }

    fn behind_unicode(&mut self, byte: u8, sink: &mut impl Sink) {
        if byte == b'"' {
            // A name spelt in escapes could be any name.
            sink.token(Token::Unsure);
        } else if byte != b'\'' {
            sink.token(Token::Word(b"u"));
            sink.token(Token::Sign(b'&'));
        }
        self.fresh(byte, sink);
        if byte == b'\'' {
            // Which sign escapes in it is said behind it.
            self.content = Content::Unknown;
        }
    }

    fn in_text(&mut self, quote: Quote, byte: u8, sink: &mut impl Sink) {
        if byte == b'\\' && std::mem::replace(&mut self.before, byte) >= 0x80 {
            // In some client encodings (SJIS, BIG5, GBK ...) this is the second half of a character.
            sink.token(Token::Unsure);
            self.state = State::Lost;
            return;
        }
        self.before = byte;
        if byte == b'\\' {
            self.content = Content::Unknown;
        } else if byte != b'\'' {
            self.keep(byte);
        }
        self.state = match quote {
            Quote::Escape { backslash: true } => State::Text(Quote::Escape { backslash: false }),
            Quote::Escape { backslash: false } if byte == b'\\' => {
                State::Text(Quote::Escape { backslash: true })
            }
            Quote::Plain { backslash: true } if byte == b'\'' => {
                // The end, or an escaped quote: it depends on a setting.
                sink.token(Token::Unsure);
                State::Lost
            }
            _ if byte == b'\'' => State::TextQuote(quote),
            // Two backslashes are two characters or one: either way a quote behind them ends it.
            Quote::Plain { backslash } => State::Text(Quote::Plain {
                backslash: byte == b'\\' && !backslash,
            }),
            Quote::Escape { .. } => State::Text(quote),
        };
    }

    fn behind_quote(&mut self, quote: Quote, byte: u8, sink: &mut impl Sink) {
        if byte == b'\'' {
            self.keep(byte);
            self.state = State::Text(quote);
            return;
        }
        let kept = (self.content == Content::Kept).then_some(self.word());
        sink.token(Token::Literal(kept));
        match quote {
            Quote::Plain { .. } => self.fresh(byte, sink),
            Quote::Escape { .. } => self.behind_escape(false, false, byte, sink),
        }
    }

    fn behind_escape(&mut self, newline: bool, comment: bool, byte: u8, sink: &mut impl Sink) {
        if comment {
            // A comment, or a minus: which of them matters only if a quote follows on a later line.
            sink.token(Token::Unsure);
            self.state = State::Lost;
        } else if is_blank(byte) {
            self.state = State::BehindEscape {
                newline: newline || is_newline(byte),
                comment: false,
            };
        } else if byte == b'-' {
            self.state = State::BehindEscape {
                newline,
                comment: true,
            };
        } else if newline && byte == b'\'' {
            self.state = self.open_text(Quote::Escape { backslash: false }, sink);
        } else {
            self.fresh(byte, sink);
        }
    }

    fn in_comment(&mut self, depth: u32, before: u8, byte: u8) {
        self.state = match (before, byte) {
            (b'*', b'/') if depth == 1 => State::Blank,
            // The slash or star that closed or opened one can't be half of the next.
            (b'*', b'/') => State::BlockComment(depth - 1, 0),
            (b'/', b'*') => State::BlockComment(depth.saturating_add(1), 0),
            _ => State::BlockComment(depth, byte),
        };
    }

    fn in_dollar_tag(&mut self, byte: u8, sink: &mut impl Sink) {
        let first = self.word_bytes == 0;
        match byte {
            b'$' => self.state = State::DollarText(0),
            _ if starts_word(byte) || (!first && byte.is_ascii_digit()) => {
                self.push(byte);
                if self.word_bytes == WORD_BYTES {
                    sink.token(Token::Unsure);
                    self.state = State::Lost;
                }
            }
            // The second half of a character, in some client encodings, and part of the tag.
            b'\\' if self.word().last().is_some_and(|&last| last >= 0x80) => {
                sink.token(Token::Unsure);
                self.state = State::Lost;
            }
            // A parameter, or a stray sign.
            _ => {
                sink.token(Token::Sign(b'$'));
                self.fresh(byte, sink);
            }
        }
    }

    fn in_dollar_text(&mut self, seen: usize, byte: u8, sink: &mut impl Sink) {
        let expected = match seen {
            0 => b'$',
            _ => self.word().get(seen - 1).copied().unwrap_or(b'$'),
        };
        if byte != expected {
            self.state = State::DollarText(usize::from(byte == b'$'));
        } else if seen == self.word_bytes + 1 {
            sink.token(Token::Literal(None));
            self.state = State::Blank;
        } else {
            self.state = State::DollarText(seen + 1);
        }
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.word.get_mut(self.word_bytes) {
            *place = byte;
            self.word_bytes += 1;
        }
    }

    /// Keeps a byte of a string, as long as there is room.
    fn keep(&mut self, byte: u8) {
        if self.content == Content::Unknown {
            return;
        }
        if self.word_bytes == WORD_BYTES {
            self.content = Content::Unknown;
        }
        self.push(byte);
    }

    fn word(&self) -> &[u8] {
        self.word.get(..self.word_bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
