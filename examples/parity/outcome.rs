//! What a comparison found, as rows of a table.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use ipa_core::tch::{Kind, Tensor};

/// The columns of [`Outcome`]'s rows.
pub(crate) const HEADER: &str =
    "model     parameters    load s    here s  reference s  output               error  allowed";

/// One output against the reference's.
#[derive(Debug)]
pub(crate) struct Comparison {
    output: &'static str,
    error: f64,
    tolerance: f64,
}

impl Comparison {
    /// The largest difference, relative to the reference's largest value.
    ///
    /// # Errors
    /// If the shapes differ.
    pub(crate) fn relative(output: &'static str, found: &Tensor, expected: &Tensor, tolerance: f64) -> Result<Self> {
        let largest = expected.to_kind(Kind::Double).abs().max().double_value(&[]);
        Self::within(output, found, expected, largest, tolerance)
    }

    /// An error found elsewhere.
    pub(crate) fn given(output: &'static str, error: f64, tolerance: f64) -> Self {
        Self { output, error, tolerance }
    }

    /// The largest difference, relative to a given value.
    ///
    /// # Errors
    /// If the shapes differ.
    pub(crate) fn within(
        output: &'static str,
        found: &Tensor,
        expected: &Tensor,
        largest: f64,
        tolerance: f64,
    ) -> Result<Self> {
        let (here, reference) = (found.size(), expected.size());
        ensure!(here == reference, "`{output}` is {here:?} here, {reference:?} in the reference");
        let difference = found.to_kind(Kind::Double) - expected.to_kind(Kind::Double);
        Ok(Self { output, error: difference.abs().max().double_value(&[]) / largest, tolerance })
    }

    /// Whether the error is allowed; one that is not a number is not.
    fn passes(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// A part of the comparison.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// As on the command line.
    pub(crate) name: &'static str,
    /// Of the weights that were loaded.
    pub(crate) num_parameters: usize,
    /// Time to load them here.
    pub(crate) load: Duration,
    /// Time of the forward call here.
    pub(crate) here: Duration,
    /// Time of the forward call in the reference.
    pub(crate) reference: Duration,
    /// One an output.
    pub(crate) comparisons: Vec<Comparison>,
}

impl Outcome {
    /// Whether every output is close enough.
    pub(crate) fn passes(&self) -> bool {
        self.comparisons.iter().all(Comparison::passes)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millions = format!("{:.1} M", self.num_parameters as f64 / 1e6);
        let [load, here, reference] = [self.load, self.here, self.reference].map(|time| time.as_secs_f64());
        write!(f, "{:<8}  {millions:>10}  {load:>8.2}  {here:>8.2}  {reference:>11.2}", self.name)?;
        for (index, comparison) in self.comparisons.iter().enumerate() {
            let indent = if index == 0 { 2 } else { 55 };
            let Comparison { output, error, tolerance } = comparison;
            let verdict = if comparison.passes() { "" } else { "  differs" };
            writeln!(f, "{:indent$}{output:<17}  {error:>7.1e}  {tolerance:>7.1e}{verdict}", "")?;
        }
        Ok(())
    }
}

/// The numbers that safetensors files hold, from their headers.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn num_parameters(files: &[&Path]) -> Result<usize> {
    let mut sum = 0;
    for file in files {
        let header = ipa_formats::read_header(file)?;
        sum += header.tensors.values().map(|tensor| tensor.shape.iter().product::<usize>()).sum::<usize>();
    }
    Ok(sum)
}
