//! Pages of a list (AIP-158).
//!
//! A page token is opaque to callers. The token names its list and the last item of the previous page.

use uuid::Uuid;

use super::{error::Error, fields::Fields};
use crate::clock::Micros;

const DEFAULT_SIZE: i32 = 50;
const MAX_SIZE: i32 = 500;
const TOKEN_RULE: &str = "must be a next_page_token of the same list, or empty";

/// The part of a list that a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Maximum number of items on the page.
    pub size: usize,
    /// The cursor of the last item before the page; `None` for the first page.
    pub after: Option<String>,
    list: String,
}

impl Page {
    /// Reads the fields `page_size` and `page_token`. `list` names the list and its filters. It is a violation if the
    /// size is negative, or if the token is malformed or belongs to another list.
    pub fn read(fields: &mut Fields, list: String, page_size: i32, page_token: &str) -> Self {
        Self::read_within(fields, list, (page_size, page_token), DEFAULT_SIZE, MAX_SIZE)
    }

    /// Reads the page size and the page token `asked` like [`Page::read`]. A page has `default` items if the size is 0,
    /// and at most `max` items.
    pub fn read_within(fields: &mut Fields, list: String, asked: (i32, &str), default: i32, max: i32) -> Self {
        let (page_size, page_token) = asked;
        fields.page_size(page_size);
        let size = if page_size == 0 { default } else { page_size.min(max) };
        let after = if page_token.is_empty() { None } else { decode(&list, page_token) };
        fields.require(page_token.is_empty() || after.is_some(), "page_token", TOKEN_RULE);
        Self { size: usize::try_from(size).unwrap_or_default(), after, list }
    }

    /// Parses the cursor with `read`. Returns `None` for the first page. Fails with INVALID_ARGUMENT if the cursor is
    /// invalid.
    pub fn cursor<T>(&self, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Error> {
        let tampered = || Error::invalid("page_token", TOKEN_RULE);
        self.after.as_deref().map(|after| read(after).ok_or_else(tampered)).transpose()
    }

    /// Parses a cursor that [`Page::by_time_and_id`] wrote. Returns `None` for the first page. Fails with
    /// INVALID_ARGUMENT if the cursor is invalid.
    pub fn time_and_id(&self) -> Result<Option<(Micros, Uuid)>, Error> {
        self.cursor(|cursor| {
            let (time, id) = cursor.split_once('/')?;
            Some((time.parse().ok()?, id.parse().ok()?))
        })
    }

    /// Returns the cursor of an item in a list that is ordered by time and id.
    pub fn by_time_and_id(time: Micros, id: Uuid) -> String {
        format!("{time}/{id}")
    }

    /// Returns `items`, truncated to the page size, and the token of the next page; the token is empty on the last
    /// page. The query must have requested one item more than the page size.
    pub fn cut<T>(&self, mut items: Vec<T>, cursor: impl Fn(&T) -> String) -> (Vec<T>, String) {
        let more = items.len() > self.size;
        items.truncate(self.size);
        let next = match items.last() {
            Some(last) if more => encode(&self.list, &cursor(last)),
            _ => String::new(),
        };
        (items, next)
    }
}

/// Encodes a page token in hexadecimal, so that it needs no escaping in headers, URLs and shells.
fn encode(list: &str, cursor: &str) -> String {
    hex::encode(format!("{list}\n{cursor}"))
}

fn decode(list: &str, token: &str) -> Option<String> {
    let text = String::from_utf8(hex::decode(token).ok()?).ok()?;
    let (named, cursor) = text.split_once('\n')?;
    // A valid cursor has no control characters. PostgreSQL fails on a text that contains NUL.
    let is_ours = named == list && !cursor.chars().any(char::is_control);
    is_ours.then(|| cursor.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(size: i32, token: &str) -> Result<Page, Error> {
        read_list("payments/me", size, token)
    }

    fn read_list(list: &str, size: i32, token: &str) -> Result<Page, Error> {
        let mut fields = Fields::default();
        let page = Page::read(&mut fields, list.to_owned(), size, token);
        fields.done().map(|()| page)
    }

    #[test]
    fn sizes_are_defaulted_coerced_and_refused() {
        assert_eq!(read(0, "").unwrap().size, 50);
        assert_eq!(read(7, "").unwrap().size, 7);
        assert_eq!(read(i32::MAX, "").unwrap().size, 500);
        assert!(read(-1, "").is_err());
    }

    #[test]
    fn a_token_leads_to_the_next_page_and_the_last_page_has_none() {
        let page = read(2, "").unwrap();
        let (items, next) = page.cut(vec![1, 2, 3], i32::to_string);
        assert_eq!(items, [1, 2]);
        assert_eq!(read(2, &next).unwrap().after.as_deref(), Some("2"));
        assert_eq!(page.cut(vec![3, 4], i32::to_string), (vec![3, 4], String::new()));
    }

    #[test]
    fn a_page_token_of_another_list_is_refused() {
        let (_, mine) = read(1, "").unwrap().cut(vec![1, 2], i32::to_string);
        assert!(read_list("payments/you", 1, &mine).is_err());
        let with_nul = encode("payments/me", "1\0");
        for foreign in ["x", "zz", "00", "0g", "\u{e4}", with_nul.as_str()] {
            assert!(read(1, foreign).is_err(), "{foreign}");
        }
    }
}
