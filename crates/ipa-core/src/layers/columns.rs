//! Convolutions as one matrix product: what every result reads lies in a column.

use tch::{Device, Kind, Tensor};

use crate::parallel::{Shared, floats, for_each};

/// What one result of a convolution reads: a square.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) kernel: i64,
    pub(super) stride: i64,
    pub(super) padding: i64,
}

impl Window {
    /// How many there are along a side.
    fn count(self, side: i64) -> i64 {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Where, along a side, the windows read with their `tap`: every window that reads a place, and the place.
    fn places(self, tap: i64, side: i64) -> impl Iterator<Item = (usize, usize)> {
        let place = move |index: i64| index * self.stride + tap - self.padding;
        let within = (0..self.count(side)).map(move |index| (index, place(index)));
        within
            .filter(move |(_, place)| (0..side).contains(place))
            .map(|(index, place)| (index as usize, place as usize))
    }
}

/// The convolution of `hidden` `[batch, inputs, height, width]` by `weight` `[outputs, inputs, k, k]`.
pub(super) fn convolved(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>, window: Window) -> Tensor {
    let (batch, _, height, width) = hidden.size4().expect("pictures have four sizes");
    let (height, width) = (window.count(height), window.count(width));
    let outputs = weight.size()[0];
    // All pictures side by side, so that weights are read once.
    let columns = hidden.im2col([window.kernel; 2], [1, 1], [window.padding; 2], [window.stride; 2]).transpose(0, 1);
    let columns = columns.reshape([columns.size()[0], batch * height * width]);
    let matrix = weight.view([outputs, -1]);
    let product = match bias {
        Some(bias) => bias.unsqueeze(1).addmm(&matrix, &columns),
        None => matrix.matmul(&columns),
    };
    product.view([outputs, batch, height, width]).transpose(0, 1).contiguous()
}

/// The gradient of what [`convolved`] read, of that `size`, from the gradient of its result; all in f32, on the CPU.
pub(super) fn gradient(gradient: &Tensor, weight: &Tensor, size: &[i64], window: Window) -> Tensor {
    let outputs = weight.size()[0];
    let gradient = gradient.flatten(2, 3).transpose(0, 1).reshape([outputs, -1]);
    folded(&weight.view([outputs, -1]).tr().matmul(&gradient), size, window)
}

/// Adds up the columns of all windows, `[inputs · k · k, batch · windows]`, at the places they were read from.
fn folded(columns: &Tensor, size: &[i64], window: Window) -> Tensor {
    let result = Tensor::zeros(size, (Kind::Float, Device::Cpu));
    let (from, to) = (floats(columns), Shared::new(&result));
    let [batch, channels, height, width] = [0, 1, 2, 3].map(|dimension| size[dimension] as usize);
    let (lines, taps) = (window.count(size[3]) as usize, window.kernel * window.kernel);
    let windows = window.count(size[2]) as usize * lines;
    for_each(channels, |channel| {
        for picture in 0..batch {
            let begin = (picture * channels + channel) * height * width;
            // SAFETY: every channel writes its own planes.
            let plane = unsafe { to.part(begin, height * width) };
            for tap in 0..taps {
                let row = (channel * taps as usize + tap as usize) * batch + picture;
                let read = &from[row * windows..][..windows];
                for (line, y) in window.places(tap / window.kernel, size[2]) {
                    add_line(
                        &read[line * lines..][..lines],
                        &mut plane[y * width..][..width],
                        window,
                        tap % window.kernel,
                    );
                }
            }
        }
    });
    result
}

/// Adds what a line of windows read with one tap.
fn add_line(read: &[f32], line: &mut [f32], window: Window, tap: i64) {
    let mut places = window.places(tap, line.len() as i64);
    let Some((first, x)) = places.next() else { return };
    if window.stride == 1 {
        line[x..].iter_mut().zip(&read[first..]).for_each(|(sum, value)| *sum += value);
    } else {
        line[x] += read[first];
        places.for_each(|(index, x)| line[x] += read[index]);
    }
}
