//! What the comment before a block says of how the test runs it.

use std::time::Duration;

/// `<!-- run -->`, and behind a semicolon each what is otherwise than for the reader, with the reason:
/// `in place of make, cargo: minutes of building`, `for 2 s: it goes on until interrupted`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Commands that something else stands in for: see tests/book/stand-in.
    pub in_place_of: Vec<String>,
    /// `flyover` is interrupted after this time.
    pub at_most: Option<Duration>,
}

impl Terms {
    /// What a comment says, if it is one of these.
    pub(super) fn of_comment(comment: &str) -> Option<Result<Self, String>> {
        let text = comment.trim().strip_prefix("<!-- run")?.strip_suffix("-->")?;
        Some(Self::parse(text))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut clauses = text.split(';').map(str::trim);
        if clauses.next() != Some("") {
            return Err("`<!-- run` goes on with `-->` or a semicolon".to_owned());
        }
        let mut terms = Self::default();
        for clause in clauses {
            let (what, why) = clause.split_once(':').unwrap_or((clause, ""));
            if why.trim().is_empty() {
                return Err(format!("`{clause}` gives no reason behind a colon"));
            }
            if let Some(commands) = what.strip_prefix("in place of ") {
                terms.in_place_of.extend(commands.split(',').map(|command| command.trim().to_owned()));
            } else if let Some(seconds) = what.strip_prefix("for ").and_then(|rest| rest.strip_suffix(" s")) {
                let seconds = seconds.parse().map_err(|_| format!("`{seconds}` is no number of seconds"))?;
                terms.at_most = Some(Duration::from_secs(seconds));
            } else {
                return Err(format!("`{what}` is neither `in place of COMMANDS` nor `for N s`"));
            }
        }
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_needs_a_reason() {
        assert_eq!(Terms::of_comment("<!-- run -->\n"), Some(Ok(Terms::default())));
        assert_eq!(Terms::of_comment("<!-- made by hand -->"), None);
        let terms = Terms::of_comment("<!-- run; in place of make, cargo: minutes; for 2 s: it goes on -->");
        let expected = Terms {
            in_place_of: vec!["make".to_owned(), "cargo".to_owned()],
            at_most: Some(Duration::from_secs(2)),
        };
        assert_eq!(terms, Some(Ok(expected)));
        for bad in ["run for 2 s: x", "run; for 2 s", "run; for 2 s: ", "run; for x s: y", "run; never: y"] {
            let comment = format!("<!-- {bad} -->");
            assert!(matches!(Terms::of_comment(&comment), Some(Err(_))), "{bad}");
        }
    }
}
