//! Where a tensor's elements lie in the file.

use std::borrow::Cow;
use std::ops::Range;

use crate::TensorInfo;

/// Dimensions of a tensor, as for safetensors.
const MAX_RANK: usize = 16;

/// A strided tensor whose elements are all known to lie within the file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// First byte of the first element.
    start: usize,
    /// Bytes of one element.
    element: usize,
    /// Size and stride in bytes of each dimension, innermost last; `None` if the elements lie in order.
    scattered: Option<Vec<(usize, usize)>>,
    num_bytes: usize,
}

impl Place {
    /// Checks a view of a storage; `offset` and `strides` count elements.
    ///
    /// # Errors
    /// What is wrong, to follow the tensor's name.
    pub(super) fn new(info: &TensorInfo, storage: &Range<usize>, offset: i64, strides: &[i64]) -> Result<Self, String> {
        let element = info.dtype.size();
        let fault = || format!("has the impossible shape {:?} with strides {strides:?}", info.shape);
        if info.shape.len() > MAX_RANK || info.shape.len() != strides.len() {
            return Err(fault());
        }
        let num_bytes = info.checked_bytes().ok_or_else(fault)?;
        let steps = strides.iter().map(|&stride| usize::try_from(stride).ok()?.checked_mul(element));
        let steps = steps.collect::<Option<Vec<_>>>().ok_or_else(fault)?;
        let offset = usize::try_from(offset).ok().and_then(|offset| offset.checked_mul(element)).ok_or_else(fault)?;
        if num_bytes == 0 {
            return Ok(Self { start: storage.start, element, scattered: None, num_bytes });
        }
        let dims: Vec<_> = info.shape.iter().copied().zip(steps).collect();
        let end = dims.iter().try_fold(offset, |end, &(size, step)| end.checked_add(step.checked_mul(size - 1)?));
        let end = end.and_then(|last| last.checked_add(element));
        if end.is_none_or(|end| end > storage.len()) {
            return Err(format!(
                "of shape {:?} reaches beyond the {} bytes of its storage; the file is damaged, fetch or write it again",
                info.shape,
                storage.len()
            ));
        }
        if num_bytes > storage.len() {
            return Err("repeats the elements of a smaller storage; call contiguous() on it and save it again".into());
        }
        let scattered = (!in_order(&dims, element)).then_some(dims);
        Ok(Self { start: storage.start + offset, element, scattered, num_bytes })
    }

    /// The elements in row-major order: borrowed if they lie so, otherwise copied.
    pub(super) fn data<'a>(&self, bytes: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let Some(dims) = &self.scattered else {
            return bytes.get(self.start..self.start.checked_add(self.num_bytes)?).map(Cow::Borrowed);
        };
        let mut out = Vec::with_capacity(self.num_bytes);
        match self.element {
            1 => gather::<1>(bytes, self.start, dims, &mut out)?,
            2 => gather::<2>(bytes, self.start, dims, &mut out)?,
            4 => gather::<4>(bytes, self.start, dims, &mut out)?,
            _ => gather::<8>(bytes, self.start, dims, &mut out)?,
        }
        Some(Cow::Owned(out))
    }
}

fn in_order(dims: &[(usize, usize)], element: usize) -> bool {
    let mut expected = element;
    dims.iter().rev().filter(|&&(size, _)| size > 1).all(|&(size, step)| {
        let right = step == expected;
        expected *= size; // at most the bytes of the tensor
        right
    })
}

/// Copies elements of `N` bytes in row-major order. At most one level of recursion per dimension.
fn gather<const N: usize>(bytes: &[u8], start: usize, dims: &[(usize, usize)], out: &mut Vec<u8>) -> Option<()> {
    match dims {
        [] => out.extend_from_slice(bytes.get(start..)?.first_chunk::<N>()?),
        &[(size, step)] => {
            for index in 0..size {
                out.extend_from_slice(bytes.get(start + index * step..)?.first_chunk::<N>()?);
            }
        }
        [(size, step), inner @ ..] => {
            for index in 0..*size {
                gather::<N>(bytes, start + index * step, inner, out)?;
            }
        }
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Dtype;

    fn place(shape: &[usize], storage: Range<usize>, offset: i64, strides: &[i64]) -> Result<Place, String> {
        Place::new(&TensorInfo { dtype: Dtype::I16, shape: shape.to_vec() }, &storage, offset, strides)
    }

    #[test]
    fn elements_in_order_are_borrowed() {
        let bytes: Vec<u8> = (0..32).collect();
        for (shape, strides) in
            [(&[2, 3][..], &[3, 1][..]), (&[6], &[1]), (&[1, 6], &[77, 1]), (&[2, 1, 3], &[3, 99, 1])]
        {
            let data = place(shape, 4..20, 1, strides).unwrap().data(&bytes);
            assert!(matches!(data, Some(Cow::Borrowed(data)) if data == &bytes[6..18]), "{shape:?}");
        }
    }

    #[test]
    fn other_strides_are_put_in_order() {
        let bytes: Vec<u8> = (0..32).collect();
        let transposed = place(&[3, 2], 0..12, 0, &[1, 3]).unwrap().data(&bytes).unwrap().into_owned();
        assert_eq!(transposed, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        let every_second = place(&[3], 0..12, 1, &[2]).unwrap().data(&bytes).unwrap().into_owned();
        assert_eq!(every_second, [2, 3, 6, 7, 10, 11]);
        let repeated = place(&[2, 2], 0..12, 1, &[0, 1]).unwrap().data(&bytes).unwrap().into_owned();
        assert_eq!(repeated, [2, 3, 4, 5, 2, 3, 4, 5]);
    }

    #[test]
    fn one_element_and_none() {
        let bytes: Vec<u8> = (0..8).collect();
        assert_eq!(*place(&[], 2..8, 2, &[]).unwrap().data(&bytes).unwrap(), [6, 7]);
        assert_eq!(*place(&[3, 0], 8..8, 5, &[1, 1]).unwrap().data(&bytes).unwrap(), [0u8; 0]);
    }

    #[test]
    fn nothing_reaches_beyond_the_storage() {
        let max = i64::MAX;
        let beyond = [
            (&[5][..], 0, &[1][..]),
            (&[4], 1, &[1]),
            (&[2], 0, &[4]),
            (&[2, 2], 0, &[2, 2]),
            (&[1], max, &[1]),
            (&[1], -1, &[1]),
            (&[2], 0, &[-1]),
            (&[2], 0, &[max]),
            (&[2, 2, 2], 0, &[max / 4, max / 4, max / 4]),
            (&[usize::MAX], 0, &[0]),
            (&[1 << 40], 0, &[0]),
            (&[0, usize::MAX], 0, &[1, 1]),
            (&[2], 0, &[]),
            (&[2], 0, &[1, 1]),
            (&[1; 17], 0, &[1; 17]),
        ];
        for (shape, offset, strides) in beyond {
            assert!(place(shape, 0..8, offset, strides).is_err(), "{shape:?} {offset} {strides:?}");
        }
    }
}
