//! Pictures of where references acted.

use image::{Rgb, RgbImage, imageops};
use ipa_adapter::AttentionMaps;
use ipa_core::tch::{Kind, Tensor};

use crate::Generated;

/// Most token maps beside each other.
const MAX_TOKENS: i64 = 16;
/// How bright a picture is where a reference did not act.
const DIM: f64 = 0.15;

/// The shares of attention that the tokens of one reference had.
#[derive(Debug)]
pub struct ReferenceMap {
    /// Which image prompt of the request it belongs to: `images` first, then `image_prompts`.
    pub prompt: usize,
    /// Which of its references.
    pub reference: usize,
    /// `[pictures, tokens, height, width]` of the latents: the mean over layers, heads and calls in which the prompt
    /// acted. At one place the shares of all references that share a softmax sum to 1, times the mask if there is one.
    pub shares: Tensor,
}

/// What was gathered, by reference.
pub fn reference_maps(maps: AttentionMaps, generated: &Generated) -> Vec<ReferenceMap> {
    let mut found = Vec::new();
    for part in maps.finish() {
        let counts = &generated.reference_tokens[part.prompt];
        // With masks every reference is a part of its own.
        let own =
            if counts.iter().sum::<i64>() == part.shares.size()[1] { &counts[..] } else { &counts[part.part..][..1] };
        let mut first = 0;
        for (index, &num) in own.iter().enumerate() {
            let shares = part.shares.narrow(1, first, num);
            found.push(ReferenceMap { prompt: part.prompt, reference: part.part + index, shares });
            first += num;
        }
    }
    found
}

impl ReferenceMap {
    /// A picture as bright as the reference's share at each place, and beside it for each of its tokens as bright as the
    /// token's share against its largest; of more than 16 tokens, the first 16.
    pub fn strip(&self, index: usize, picture: &RgbImage) -> RgbImage {
        let shares = self.shares.select(0, index as i64); // [tokens, height, width]
        let num = shares.size()[0].min(MAX_TOKENS);
        let own = shares.sum_dim_intlist(0, false, Kind::Float);
        let token = |token: i64| {
            let map = shares.select(0, token);
            let largest = map.max();
            map / largest.clamp_min(f64::from(f32::MIN_POSITIVE))
        };
        let maps = std::iter::once(own).chain((0..num).map(token));
        let lit: Vec<RgbImage> = maps.map(|map| lit(picture, &map)).collect();
        let (width, height) = picture.dimensions();
        let mut strip = RgbImage::new(width * lit.len() as u32, height);
        for (place, picture) in lit.iter().enumerate() {
            imageops::replace(&mut strip, picture, i64::from(width) * place as i64, 0);
        }
        strip
    }
}

/// A picture as bright as a map `[height, width]` of 0 to 1, stretched over it, says.
fn lit(picture: &RgbImage, map: &Tensor) -> RgbImage {
    let (width, height) = picture.dimensions();
    let map = map.unsqueeze(0).unsqueeze(0);
    let map = map.upsample_bilinear2d([i64::from(height), i64::from(width)], false, None, None).clamp(0.0, 1.0);
    let map = Vec::<f32>::try_from(map.flatten(0, 3)).expect("numbers");
    let bright = |x: u32, y: u32| DIM + (1.0 - DIM) * f64::from(map[(y * width + x) as usize]);
    RgbImage::from_fn(width, height, |x, y| {
        let Rgb(colours) = *picture.get_pixel(x, y);
        Rgb(colours.map(|colour| (f64::from(colour) * bright(x, y)).round() as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_shows_where_its_reference_acted() {
        let shares = Tensor::from_slice(&[0f32, 0.5, 0.0, 0.25]).view([1, 2, 1, 2]);
        let map = ReferenceMap { prompt: 0, reference: 0, shares };
        let strip = map.strip(0, &RgbImage::from_pixel(2, 2, Rgb([200, 100, 0])));
        assert_eq!(strip.dimensions(), (6, 2));
        let pixels: Vec<[u8; 3]> = (0..6).map(|x| strip.get_pixel(x, 1).0).collect();
        let (dim, bright) = ([30, 15, 0], [200, 100, 0]);
        assert_eq!(pixels[0], dim); // no share of both tokens together
        assert_eq!(pixels[1], [158, 79, 0]); // three quarters
        assert_eq!(&pixels[2..], [dim, bright, dim, bright]); // each token by itself
    }
}
