/// What is wrong with the values that were to be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each number is
pub enum MetricsError {
    /// A mean over nothing.
    #[error("there are no values to measure")]
    Empty,
    /// Rows or values that should come in pairs do not.
    #[error("{left} values cannot be paired with {right}")]
    Unpaired { left: usize, right: usize },
    /// Embeddings of two different widths.
    #[error("embeddings of width {left} cannot be compared with embeddings of width {right}")]
    Width { left: usize, right: usize },
    /// An embedding without a direction.
    #[error("embedding {row} has length zero, so its cosine is undefined")]
    ZeroLength { row: usize },
    /// NaN or infinity.
    #[error("value {index} is not a finite number")]
    NotFinite { index: usize },
    /// Pictures of two different sizes.
    #[error("pictures of {left:?} and {right:?} pixels cannot be compared")]
    Sizes { left: (u32, u32), right: (u32, u32) },
    /// No scale between two equal ends.
    #[error("pairs of the same thing are no more alike than shuffled ones, so the encoder measures nothing")]
    Uncalibrated,
    /// More successes than trials.
    #[error("{successes} successes are more than {trials} trials")]
    Proportion { successes: usize, trials: usize },
}
