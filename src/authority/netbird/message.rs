//! NetBird's own line in an answer, as it may be shown to people.

use super::Token;

/// Characters of a line, at most.
const LONGEST: usize = 200;

/// The line without secrets and control characters, shortened to 200 characters.
///
/// Every UUID is masked like a key: NetBird lower-cases what it quotes, so a key looks like any other UUID.
pub fn shown(line: &str, token: &Token) -> String {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // Masked before it is shortened: half a token at the end would not be recognised.
    let line = mask_uuids(&token.redact(&line));
    let line = line.trim();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

fn mask_uuids(text: &str) -> String {
    const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;
    let (mut masked, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(first) = rest.chars().next() {
        let uuid = rest.get(..LENGTH).filter(|word| uuid::Uuid::try_parse(word).is_ok());
        let (shown, mask, length) = match uuid {
            Some(uuid) => (&uuid[..5], "****", LENGTH),
            None => (&rest[..first.len_utf8()], "", first.len_utf8()),
        };
        masked.push_str(shown);
        masked.push_str(mask);
        rest = &rest[length..];
    }
    masked
}
