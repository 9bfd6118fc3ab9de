//! Taking dotted names apart.

/// Blocks beyond this number are no blocks; keeps sums of them from overflowing.
const MAX_NUMBER: usize = 9_999;

/// The number that a name begins with and what stands behind its dot. Written otherwise than in the
/// usual way (`01`) it is none, so that two names never mean one block.
pub(super) fn number(name: &str) -> Option<(usize, &str)> {
    let (digits, rest) = name.split_once('.')?;
    let number = digits.parse().ok().filter(|&number: &usize| number <= MAX_NUMBER)?;
    (number.to_string() == digits && !rest.is_empty()).then_some((number, rest))
}

/// What stands in `name` behind `module` and a dot.
pub(super) fn within<'a>(name: &'a str, module: &str) -> Option<&'a str> {
    name.strip_prefix(module)?.strip_prefix('.').filter(|rest| !rest.is_empty())
}

/// `name` with the module that begins it replaced by its counterpart in the second column.
pub(super) fn moved(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(from, to)| Some(format!("{to}.{}", within(name, from)?)))
}

/// As [`moved`], from the second column to the first.
pub(super) fn moved_back(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(to, from)| Some(format!("{to}.{}", within(name, from)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_at_dots() {
        assert_eq!(number("12.conv.weight"), Some((12, "conv.weight")));
        for name in ["", "12", "12.", ".a", "a.1", "+1.a", "012.a", "10000.a", "-1.a", "1 .a"] {
            assert_eq!(number(name), None, "{name}");
        }
        assert_eq!(within("out.2.weight", "out.2"), Some("weight"));
        assert_eq!(within("out.20.weight", "out.2"), None);
        assert_eq!(within("out.2.", "out.2"), None);
        assert_eq!(within("out.2", "out.2"), None);
    }
}
