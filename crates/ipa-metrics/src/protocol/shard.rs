//! A part of a run, so that several machines can share it.

use std::fmt;
use std::str::FromStr;

use super::ProtocolError;

/// One of several equal parts; together they are the whole, and no image is in two.
///
/// Image `i` of a set belongs to part `i mod count`, so parts differ by at most one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// The items of this part, in order. The whole must be the same for all parts.
    pub fn of<T>(self, whole: &[T]) -> impl Iterator<Item = &T> {
        whole.iter().skip(self.index).step_by(self.count)
    }
}

/// `2/3` is the second of three.
impl FromStr for Shard {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |problem| ProtocolError::Shard { text: text.to_owned(), problem };
        let (index, count) = text.split_once('/').ok_or_else(|| wrong("it has no `/`"))?;
        let number = |part: &str, problem| match part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => part.parse::<usize>().map_err(|_| wrong(problem)),
            false => Err(wrong(problem)),
        };
        let index = number(index, "what stands before the `/` is no whole number")?;
        let count = number(count, "what stands behind the `/` is no whole number")?;
        match index {
            _ if count == 0 => Err(wrong("there are no parts")),
            0 => Err(wrong("parts are counted from 1")),
            index if index > count => Err(wrong("there are not as many parts")),
            index => Ok(Self { index: index - 1, count }),
        }
    }
}

/// As it is parsed.
impl fmt::Display for Shard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.index + 1, self.count)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_and_do_not_overlap() {
        let whole: Vec<usize> = (0..23).collect();
        for count in 1..30 {
            let shards: Vec<Shard> = (1..=count).map(|index| format!("{index}/{count}").parse().unwrap()).collect();
            let mut all: Vec<usize> = shards.iter().flat_map(|shard| shard.of(&whole)).copied().collect();
            all.sort_unstable();
            assert_eq!(all, whole, "{count} parts");
        }
    }

    #[test]
    fn a_shard_is_written_as_it_is_read() {
        assert_eq!("2/3".parse::<Shard>().unwrap().to_string(), "2/3");
        assert_eq!(Shard::WHOLE.to_string(), "1/1");
    }

    #[test]
    fn what_is_no_shard_is_refused_with_the_reason() {
        for (text, reason) in [
            ("2", "no `/`"),
            ("/", "before the `/`"),
            ("1/", "behind the `/`"),
            ("+1/2", "before the `/`"),
            ("1/2/3", "behind the `/`"),
            ("0/3", "counted from 1"),
            ("4/3", "not as many"),
            ("0/0", "no parts"),
            ("1/99999999999999999999999", "behind the `/`"),
        ] {
            let error = text.parse::<Shard>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
