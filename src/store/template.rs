//! Fills placeholders in our SQL. Pure.
//!
//! A replacement that finds nothing would leave a statement that means something else, so every miss is an error.

use super::StoreError;

/// The statement with a text for each `{placeholder}`; a text may have placeholders itself.
pub(super) fn fill(sql: &str, texts: &[(&str, &str)]) -> Result<String, StoreError> {
    fill_nested(sql, texts, texts.len())
}

fn fill_nested(sql: &str, texts: &[(&str, &str)], depth: usize) -> Result<String, StoreError> {
    let mut filled = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find('{') {
        let (before, brace) = rest.split_at(at);
        filled.push_str(before);
        let Some(name) = placeholder(brace) else {
            // An array such as '{}'.
            filled.push('{');
            rest = &brace[1..];
            continue;
        };
        let text = texts.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
        let (Some(text), Some(deeper)) = (text, depth.checked_sub(1)) else {
            return Err(StoreError::Schema(format!(
                "a statement of ours has the placeholder {{{name}}}, which nothing fills: report this as a bug"
            )));
        };
        filled.push_str(&fill_nested(text, texts, deeper)?);
        rest = &brace[name.len() + 2..];
    }
    filled.push_str(rest);
    Ok(filled)
}

/// The name in the braces that `text` begins with.
fn placeholder(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix('{')?.split_once('}')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_wherever_they_stand() {
        let texts = [("over", "({by_id} or $1)"), ("by_id", "e.id = s.id"), ("zone", "'UTC'")];
        for (sql, expected) in [
            ("select {zone}", "select 'UTC'"),
            ("not {over} and {over}", "not (e.id = s.id or $1) and (e.id = s.id or $1)"),
            ("coalesce(x, '{}') {zone}", "coalesce(x, '{}') 'UTC'"),
            ("'{1,2}' '{' {zone}", "'{1,2}' '{' 'UTC'"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(fill(sql, &texts).unwrap(), expected);
        }
    }

    #[test]
    fn a_placeholder_that_nothing_fills_is_an_error() {
        for (sql, texts) in [("select {gone}", vec![("here", "1")]), ("{outer}", vec![("outer", "{inner}")])] {
            let error = fill(sql, &texts).unwrap_err().to_string();
            assert!(error.contains("which nothing fills"), "{error}");
        }
    }

    #[test]
    fn a_text_that_names_itself_is_an_error_and_no_endless_loop() {
        assert!(fill("{again}", &[("again", "{again}")]).is_err());
    }
}
