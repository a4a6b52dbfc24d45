//! The least of HTTP/1.0 that a client needs: one request, one page.

use std::net::SocketAddr;

/// Longest answer that is read; nginx's headers and a node's name are some 250 bytes.
pub(crate) const ANSWER_LEN_MAX: usize = 2_048;

/// The request for the page of `target`.
pub(crate) fn request(target: SocketAddr) -> Vec<u8> {
    format!("GET / HTTP/1.0\r\nHost: {target}\r\n\r\n").into_bytes()
}

/// What has been read of an answer so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Page<'a> {
    /// More has to come.
    Incomplete,
    /// The page: its text, without white space around it.
    Complete(&'a str),
    /// It is not `200 OK` with a length, or it is too long.
    Bad,
}

/// Judges the bytes of an answer.
pub(crate) fn parse(bytes: &[u8]) -> Page<'_> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Page::Bad;
    };
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return if bytes.len() < ANSWER_LEN_MAX { Page::Incomplete } else { Page::Bad };
    };
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    match (status, length) {
        (Some("200"), Some(length)) if length <= ANSWER_LEN_MAX => match body.get(..length) {
            Some(page) => Page::Complete(page.trim()),
            None => Page::Incomplete,
        },
        _ => Page::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_complete_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 6\r\n\r\nalpha\n";
        for length in 0..answer.len() {
            assert_eq!(parse(&answer[..length]), Page::Incomplete, "{length}");
        }
        assert_eq!(parse(answer), Page::Complete("alpha"));
    }

    #[test]
    fn anything_but_a_page_is_bad() {
        assert_eq!(parse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), Page::Bad);
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n"), Page::Bad);
        assert_eq!(parse(b"\xff"), Page::Bad);
        assert_eq!(parse(&[b'x'; ANSWER_LEN_MAX]), Page::Bad);
    }
}
