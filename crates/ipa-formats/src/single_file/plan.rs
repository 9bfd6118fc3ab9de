//! One tensor to be made from others: where from, how, and the bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::SingleFileError;
use crate::{Dtype, TensorBytes, TensorInfo};

/// A part of a model with a folder of its own.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// The denoising UNet.
    Unet,
    /// The image autoencoder.
    Vae,
    /// The text tower.
    TextEncoder,
}

impl Component {
    /// Name of its folder in a diffusers model.
    pub fn folder(self) -> &'static str {
        match self {
            Component::Unet => "unet",
            Component::Vae => "vae",
            Component::TextEncoder => "text_encoder",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// How a tensor comes from its sources. No operation computes: elements are only moved.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// The source itself.
    AsIs,
    /// The source's elements under other sizes: a 1×1 convolution as a linear layer, or the other way.
    Reshape,
    /// One third of the source's rows, 0 the query's, 1 the key's, 2 the value's.
    Third(usize),
    /// The rows of three sources one after the other.
    Concatenate,
    /// A matrix with rows and columns swapped.
    Transpose,
}

/// One tensor to be made from tensors of another layout.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TensorPlan {
    /// Component it belongs to, in both layouts.
    pub component: Component,
    /// Its name in the layout that is made.
    pub name: String,
    /// Its element type and sizes there.
    pub info: TensorInfo,
    /// Names of the tensors it is made of, in the layout that is read.
    pub sources: Vec<String>,
    /// How it is made of them.
    pub operation: Operation,
}

impl TensorPlan {
    /// Makes the tensor of its sources' little-endian, row-major bytes, given in the order of `sources`.
    ///
    /// Copies only where elements move.
    ///
    /// # Errors
    /// [`SingleFileError::Bytes`] if the sources' bytes are not as many as the plan was made for.
    pub fn apply<'a>(&self, sources: &[&'a [u8]]) -> Result<TensorBytes<'a>, SingleFileError> {
        let TensorInfo { dtype, shape } = &self.info;
        let needed = self.info.num_bytes();
        let found = sources.iter().map(|source| source.len()).sum();
        let fault = || SingleFileError::Bytes { name: self.name.clone(), found, needed };
        let data = match (self.operation, sources) {
            (Operation::AsIs | Operation::Reshape, [source]) if source.len() == needed => Cow::Borrowed(*source),
            (Operation::Third(third), [source]) if Some(source.len()) == needed.checked_mul(3) => {
                let begin = needed.checked_mul(third).ok_or_else(fault)?;
                Cow::Borrowed(source.get(begin..).and_then(|rest| rest.get(..needed)).ok_or_else(fault)?)
            }
            (Operation::Concatenate, [_, _, _]) if found == needed => Cow::Owned(sources.concat()),
            (Operation::Transpose, [source]) if source.len() == needed && shape.len() == 2 => {
                Cow::Owned(transposed(source, *dtype, shape[0], shape[1]))
            }
            _ => return Err(fault()),
        };
        Ok(TensorBytes { name: self.name.clone(), dtype: *dtype, shape: shape.clone(), data })
    }
}

impl TensorPlan {
    /// The tensor's bytes, of sources looked up by name; copied only where elements move or a source is a copy itself.
    ///
    /// # Errors
    /// [`SingleFileError::Missing`] for a source that is not there; as [`TensorPlan::apply`].
    pub(crate) fn gathered<'a>(
        &self,
        source: impl Fn(&str) -> Option<Cow<'a, [u8]>>,
    ) -> Result<Cow<'a, [u8]>, SingleFileError> {
        let find = |name: &String| source(name).ok_or_else(|| SingleFileError::Missing { name: name.clone() });
        match (&self.sources[..], self.operation) {
            ([only], Operation::AsIs | Operation::Reshape) => find(only),
            (sources, _) => {
                let data = sources.iter().map(find).collect::<Result<Vec<_>, _>>()?;
                let borrowed: Vec<&[u8]> = data.iter().map(Cow::as_ref).collect();
                Ok(Cow::Owned(self.apply(&borrowed)?.data.into_owned()))
            }
        }
    }
}

/// Rows of the result are columns of the source, `[columns, rows]`.
fn transposed(source: &[u8], dtype: Dtype, rows: usize, columns: usize) -> Vec<u8> {
    let size = dtype.size();
    if source.is_empty() {
        return Vec::new(); // an empty tensor may claim any number of rows
    }
    let mut data = Vec::with_capacity(source.len());
    for row in 0..rows {
        for column in 0..columns {
            let begin = (column * rows + row) * size;
            data.extend_from_slice(&source[begin..begin + size]);
        }
    }
    data
}

/// Sizes that an operation makes of those of its source, `name`. `matrix` tells for a projection whether it is
/// to be a matrix or a 1×1 convolution, which may make a plain move a change of sizes.
pub(super) fn shaped(
    name: &str,
    shape: &[usize],
    operation: Operation,
    matrix: Option<bool>,
) -> Result<(Vec<usize>, Operation), SingleFileError> {
    let fault = |expected: &str| SingleFileError::Shape {
        name: name.to_owned(),
        shape: shape.to_vec(),
        expected: expected.to_owned(),
    };
    match (operation, shape, matrix) {
        (Operation::Third(_), [rows, rest @ ..], _) if rows.is_multiple_of(3) => {
            Ok(([&[rows / 3], rest].concat(), operation))
        }
        (Operation::Third(_), ..) => Err(fault("a first size that 3 divides")),
        (Operation::Concatenate, [rows, rest @ ..], _) => {
            // Sizes of an empty tensor are bounded by no file; eight bytes are the largest element.
            let bytes = shape.iter().try_fold(3 * 8, |bytes: usize, &size| bytes.checked_mul(size.max(1)));
            bytes.ok_or_else(|| fault("smaller sizes"))?;
            Ok(([&[3 * rows], rest].concat(), operation))
        }
        (Operation::Concatenate, ..) => Err(fault("at least one size")),
        (Operation::Transpose, &[rows, columns], _) => Ok((vec![columns, rows], operation)),
        (Operation::Transpose, ..) => Err(fault("two sizes")),
        (Operation::AsIs | Operation::Reshape, _, None) => Ok((shape.to_vec(), operation)),
        (_, &[out, input] | &[out, input, 1] | &[out, input, 1, 1], Some(matrix)) => {
            let made = if matrix { vec![out, input] } else { vec![out, input, 1, 1] };
            let operation = if made == shape { Operation::AsIs } else { Operation::Reshape };
            Ok((made, operation))
        }
        (_, _, Some(_)) => Err(fault("[out, in] or [out, in, 1, 1]")),
    }
}

/// Plans so far, in which no tensor may be made twice.
#[derive(Debug, Default)]
pub(super) struct Plans {
    plans: BTreeMap<(Component, String), TensorPlan>,
}

impl Plans {
    pub(super) fn add(&mut self, plan: TensorPlan) -> Result<(), SingleFileError> {
        let key = (plan.component, plan.name.clone());
        if let Some(other) = self.plans.get(&key) {
            let sources = [&other.sources[..], &plan.sources[..]].concat();
            return Err(SingleFileError::Collision { name: plan.name, sources });
        }
        self.plans.insert(key, plan);
        Ok(())
    }

    /// Sorted by component, then name.
    pub(super) fn into_vec(self) -> Vec<TensorPlan> {
        self.plans.into_values().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plan(operation: Operation, dtype: Dtype, shape: &[usize]) -> TensorPlan {
        let info = TensorInfo { dtype, shape: shape.to_vec() };
        TensorPlan { component: Component::Vae, name: "made".into(), info, sources: vec![], operation }
    }

    fn made(operation: Operation, dtype: Dtype, shape: &[usize], sources: &[&[u8]]) -> Vec<u8> {
        plan(operation, dtype, shape).apply(sources).unwrap().data.into_owned()
    }

    #[test]
    fn elements_are_moved_whole() {
        let bytes: Vec<u8> = (0..12).collect();
        assert_eq!(made(Operation::AsIs, Dtype::F16, &[6], &[&bytes]), bytes);
        assert_eq!(made(Operation::Reshape, Dtype::F16, &[2, 3, 1, 1], &[&bytes]), bytes);
        assert_eq!(made(Operation::Third(1), Dtype::F16, &[1, 2], &[&bytes]), [4, 5, 6, 7]);
        assert_eq!(made(Operation::Third(2), Dtype::U8, &[4], &[&bytes]), [8, 9, 10, 11]);
        assert_eq!(made(Operation::Concatenate, Dtype::U8, &[6], &[&[1, 2], &[3, 4], &[5, 6]]), [1, 2, 3, 4, 5, 6]);
        // [[0, 1], [2, 3], [4, 5]] as two-byte elements becomes [[0, 2, 4], [1, 3, 5]].
        let swapped = [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11];
        assert_eq!(made(Operation::Transpose, Dtype::BF16, &[2, 3], &[&bytes]), swapped);
        assert_eq!(made(Operation::Transpose, Dtype::U8, &[usize::MAX / 2, 0], &[&[]]), [0; 0]);
    }

    #[test]
    fn sizes_that_no_memory_holds_are_refused() {
        for shape in [&[usize::MAX / 2][..], &[usize::MAX / 8, 0], &[0, usize::MAX / 2]] {
            let error = shaped("huge", shape, Operation::Concatenate, None).unwrap_err().to_string();
            assert!(error.contains("`huge`"), "{error}");
        }
        assert_eq!(shaped("empty", &[4, 0], Operation::Concatenate, None).unwrap().0, [12, 0]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_name() {
        let short: &[u8] = &[0; 3];
        for (operation, shape, sources) in [
            (Operation::AsIs, &[4][..], &[short][..]),
            (Operation::AsIs, &[3], &[short, short]),
            (Operation::Reshape, &[2, 2], &[short]),
            (Operation::Third(3), &[1], &[short]),
            (Operation::Third(0), &[2], &[short]),
            (Operation::Concatenate, &[8], &[short, short, short]),
            (Operation::Concatenate, &[3], &[short]),
            (Operation::Transpose, &[3], &[short]),
            (Operation::AsIs, &[0], &[]),
        ] {
            let error = plan(operation, Dtype::U8, shape).apply(sources).unwrap_err().to_string();
            assert!(error.contains("`made`"), "{error}");
        }
    }
}
