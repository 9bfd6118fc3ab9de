//! Weights in a prompt: `(word)`, `(word:1.3)`, `[word]`, as AUTOMATIC1111's web UI reads them.

use crate::RequestError;

/// What a pair of brackets without a number multiplies by, or divides by if they are square.
const BRACKET: f64 = 1.1;
/// More than anyone means, and far from what half precision cannot hold.
const MAX_WEIGHT: f64 = 100.0;
const MAX_DEPTH: usize = 100;

/// Parts of a prompt with their weights, in order; neighbours of one weight are one part.
///
/// `(text)` weighs 1.1 times as much, `(text:1.3)` 1.3 times, `[text]` 1.1 times less; brackets may lie in each other. A
/// bracket that is never closed reaches to the end, one that was never opened is text, and so is one after `\`.
pub(crate) fn parts(prompt: &str) -> Vec<(String, f64)> {
    let mut parser = Parser::default();
    let mut rest = prompt;
    while !rest.is_empty() {
        rest = parser.take(rest);
    }
    parser.finished()
}

/// Refuses weights that are beyond use.
///
/// # Errors
/// [`RequestError::Field`].
pub(crate) fn check(field: &'static str, prompt: &str) -> Result<(), RequestError> {
    let refuse = |value: String, allowed| Err(RequestError::Field { field, value, allowed });
    let depths = prompt.chars().scan(0usize, |depth, character| {
        *depth = match character {
            '(' | '[' => *depth + 1,
            ')' | ']' => depth.saturating_sub(1),
            _ => *depth,
        };
        Some(*depth)
    });
    if depths.max() > Some(MAX_DEPTH) {
        return refuse("a prompt of very deep brackets".to_owned(), "open at most 100 at once");
    }
    match parts(prompt).into_iter().find(|(_, weight)| weight.is_nan() || weight.abs() > MAX_WEIGHT) {
        Some((text, weight)) => refuse(format!("`{text}` of weight {weight}"), "choose weights of -100 to 100"),
        None => Ok(()),
    }
}

#[derive(Default)]
struct Parser {
    parts: Vec<(String, f64)>,
    /// Open brackets: whether they are square, and the part that they begin with.
    open: Vec<(bool, usize)>,
}

impl Parser {
    /// Takes the next piece and gives what follows it.
    fn take<'a>(&mut self, text: &'a str) -> &'a str {
        let special = |character| matches!(character, '\\' | '(' | ')' | '[' | ']' | ':');
        let plain = text.find(special).unwrap_or(text.len());
        if plain > 0 {
            self.push(&text[..plain]);
            return &text[plain..];
        }
        let (first, rest) = text.split_at(1); // all of them are ASCII
        match first {
            "\\" => {
                // The next character as it stands, if it is one of ours.
                let escaped = rest.chars().next().filter(|&next| special(next) && next != ':');
                self.push(if escaped.is_some() { &rest[..1] } else { first });
                return &rest[usize::from(escaped.is_some())..];
            }
            "(" | "[" => self.open.push((first == "[", self.parts.len())),
            ")" | "]" if self.closes(first == "]") => self.close(BRACKET),
            ":" => {
                if let Some((weight, rest)) = number(rest).filter(|_| self.closes(false)) {
                    self.close(weight);
                    return rest;
                }
                self.push(first);
            }
            _ => self.push(first),
        }
        rest
    }

    fn push(&mut self, text: &str) {
        self.parts.push((text.to_owned(), 1.0));
    }

    /// Whether a bracket ends the last that was opened.
    fn closes(&self, is_square: bool) -> bool {
        self.open.last().is_some_and(|(open_is_square, _)| *open_is_square == is_square)
    }

    fn close(&mut self, weight: f64) {
        let Some((is_square, begin)) = self.open.pop() else { return };
        let weight = if is_square { 1.0 / weight } else { weight };
        self.parts[begin..].iter_mut().for_each(|(_, own)| *own *= weight);
    }

    fn finished(mut self) -> Vec<(String, f64)> {
        while !self.open.is_empty() {
            self.close(BRACKET);
        }
        let mut merged: Vec<(String, f64)> = Vec::new();
        for (text, weight) in self.parts {
            match merged.last_mut().filter(|(_, last)| *last == weight) {
                Some((last, _)) => last.push_str(&text),
                None => merged.push((text, weight)),
            }
        }
        merged
    }
}

/// A number that a round bracket follows, and what follows that.
fn number(text: &str) -> Option<(f64, &str)> {
    let (number, rest) = text.split_once(')')?;
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || b"+-. ".contains(&byte));
    Some((number.trim().parse().ok().filter(|_| is_plain)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_parts(prompt: &str, expected: &[(&str, f64)]) {
        let found = parts(prompt);
        let rounded: Vec<(&str, f64)> =
            found.iter().map(|(text, weight)| (text.as_str(), (weight * 1e6).round() / 1e6)).collect();
        assert_eq!(rounded, expected, "{prompt}");
    }

    #[test]
    fn brackets_weigh_what_they_hold() {
        assert_parts("a red cat", &[("a red cat", 1.0)]);
        assert_parts("a (red) cat", &[("a ", 1.0), ("red", 1.1), (" cat", 1.0)]);
        assert_parts("a (red:1.3) cat", &[("a ", 1.0), ("red", 1.3), (" cat", 1.0)]);
        assert_parts("a [red] cat", &[("a ", 1.0), ("red", 0.909091), (" cat", 1.0)]);
        assert_parts("((a) b:0.5)", &[("a", 0.55), (" b", 0.5)]);
        assert_parts("(a:-1)(b: .5)", &[("a", -1.0), ("b", 0.5)]);
        assert_parts("(猫:1.5)です", &[("猫", 1.5), ("です", 1.0)]);
        assert_parts("", &[]);
    }

    #[test]
    fn what_is_no_weight_is_text() {
        assert_parts("\\(a\\) \\\\ \\x", &[("(a) \\ \\x", 1.0)]);
        assert_parts("a) b] 3:4", &[("a) b] 3:4", 1.0)]);
        assert_parts("(a] b)", &[("a] b", 1.1)]);
        assert_parts("(a: b)", &[("a: b", 1.1)]);
        assert_parts("(a:1.3.2)", &[("a:1.3.2", 1.1)]);
        assert_parts("[a:1.3]", &[("a:1.3", 0.909091)]);
        assert_parts("a:1.3)", &[("a:1.3)", 1.0)]);
        assert_parts("a\\", &[("a\\", 1.0)]);
    }

    #[test]
    fn brackets_that_stay_open_reach_to_the_end() {
        assert_parts("a ((b c", &[("a ", 1.0), ("b c", 1.21)]);
        assert_parts("[a (b", &[("a ", 0.909091), ("b", 1.0)]);
    }

    #[test]
    fn weights_beyond_use_are_refused_by_their_words() {
        assert!(check("prompt", "a (b:100) [c:-3]").is_ok());
        let refused = |prompt: &str| check("prompt", prompt).expect_err("beyond use").to_string();
        assert!(refused("a (huge:1000)").contains("`huge` of weight 1000"));
        assert!(refused(&format!("(a:{})", "9".repeat(400))).contains("`a`"));
        assert!(refused(&format!("{}a", "(".repeat(60))).contains("weight"));
        assert!(refused(&format!("{}a", "(".repeat(100_000))).contains("deep"));
    }
}
