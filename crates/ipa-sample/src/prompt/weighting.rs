//! Weights in a prompt: `(word)`, `(word:1.3)`, `[word]`, as AUTOMATIC1111's web UI reads them.

/// What a pair of brackets without a number multiplies by, or divides by if they are square.
const BRACKET: f64 = 1.1;

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

/// The same prompt without its weights.
pub(crate) fn plain(prompt: &str) -> String {
    parts(prompt).into_iter().map(|(text, _)| text).collect()
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
        let mut characters = text.chars();
        match characters.next() {
            Some('\\') => {
                // The next character as it stands; a last backslash is one.
                let escaped = characters.next().filter(|next| matches!(next, '(' | ')' | '[' | ']' | '\\'));
                match escaped {
                    Some(escaped) => self.push(&escaped.to_string()),
                    None => {
                        self.push("\\");
                        return &text[1..];
                    }
                }
            }
            Some(bracket @ ('(' | '[')) => self.open.push((bracket == '[', self.parts.len())),
            Some(bracket @ (')' | ']')) if self.closes(bracket) => self.close(BRACKET),
            Some(':') => {
                if let Some((weight, rest)) = number(characters.as_str()).filter(|_| self.closes(')')) {
                    self.close(weight);
                    return rest;
                }
                self.push(":");
            }
            Some(other) => self.push(&other.to_string()),
            None => {}
        }
        characters.as_str()
    }

    fn push(&mut self, text: &str) {
        self.parts.push((text.to_owned(), 1.0));
    }

    /// Whether a bracket ends the last that was opened.
    fn closes(&self, bracket: char) -> bool {
        self.open.last().is_some_and(|(is_square, _)| *is_square == (bracket == ']'))
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
    let weight: f64 = number.trim().parse().ok()?;
    (weight.is_finite() && number.bytes().all(|byte| byte.is_ascii_digit() || b"+-. ".contains(&byte)))
        .then_some((weight, rest))
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
}
