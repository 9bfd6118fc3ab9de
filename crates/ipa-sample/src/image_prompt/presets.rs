//! Strengths by layer under the names that users of ComfyUI_IPAdapter_plus and InstantStyle know.

use serde::{Deserialize, Serialize};

use super::layers::refused;
use crate::RequestError;

/// A named course of strengths over the attentions of a UNet, counted in execution order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// The same everywhere.
    Linear,
    /// From 1 at the first attention down to almost 0.
    EaseIn,
    /// The other way round.
    EaseOut,
    /// Most in the middle.
    EaseInOut,
    /// Least in the middle.
    ReverseInOut,
    /// A fifth on the way down.
    WeakInput,
    /// A fifth in the middle.
    WeakMiddle,
    /// A fifth on the way up.
    WeakOutput,
    /// A fifth everywhere but in the middle.
    StrongMiddle,
    /// Where colours and textures are decided.
    Style,
    /// Where it is decided what is where.
    Layout,
    /// Everywhere but where layout is decided.
    StrongStyle,
    /// Style and layout.
    #[serde(rename = "style+layout")]
    StyleLayout,
    /// Strong style and layout.
    #[serde(rename = "strong-style+layout")]
    StrongStyleLayout,
    /// Style, with the layout held back: there the reference stands in the unconditional half.
    StylePrecise,
    /// Layout, with everything else held back.
    LayoutPrecise,
}

/// Factors and swaps of a preset for attentions that lie in these parts; `layout` and `boost` are relative strengths.
///
/// The numbers are those of ComfyUI_IPAdapter_plus, whose courses run over 16 attentions in Stable Diffusion 1.5 and over
/// 11 in XL.
pub(super) fn factors(
    preset: Preset,
    parts: &[&str],
    (layout, boost): (f64, f64),
) -> Result<(Vec<f64>, Vec<bool>), RequestError> {
    let num = parts.len();
    let course = |factor: &dyn Fn(f64) -> f64| (0..num).map(|index| 0.05 + 0.95 * factor(index as f64)).collect();
    let half = num as f64 / 2.0;
    let weak = |weak: &[&str]| parts.iter().map(|part| if weak.contains(part) { 0.2 } else { 1.0 }).collect();
    let factors: Vec<f64> = match preset {
        Preset::Linear => vec![1.0; num],
        Preset::EaseIn => course(&|index| 1.0 - index / num as f64),
        Preset::EaseOut => course(&|index| index / num as f64),
        Preset::EaseInOut => course(&|index| 1.0 - (index - half).abs() / half),
        Preset::ReverseInOut => course(&|index| (index - half).abs() / half),
        Preset::WeakInput => weak(&["down"]),
        Preset::WeakMiddle => weak(&["mid"]),
        Preset::WeakOutput => weak(&["up"]),
        Preset::StrongMiddle => weak(&["down", "up"]),
        Preset::Style
        | Preset::Layout
        | Preset::StrongStyle
        | Preset::StyleLayout
        | Preset::StrongStyleLayout
        | Preset::StylePrecise
        | Preset::LayoutPrecise => {
            let table = match num {
                16 => Table::SD15,
                11 => Table::SDXL,
                _ => {
                    let value = format!("a preset of style or layout on a model of {num} attentions");
                    let allowed = "they are known for Stable Diffusion 1.5 (16) and XL (11): give a list".to_owned();
                    return Err(refused(value, allowed));
                }
            };
            return Ok(table.factors(preset, num, layout, boost));
        }
    };
    Ok((factors, vec![false; num]))
}

/// Which attentions decide what.
struct Table {
    style: &'static [usize],
    strong_style: &'static [usize],
    /// With a factor of their own.
    layout: &'static [(usize, f64)],
}

impl Table {
    const SD15: Self = Self {
        style: &[0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15],
        strong_style: &[0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        layout: &[(4, 0.25), (5, 1.0)],
    };
    const SDXL: Self = Self { style: &[6], strong_style: &[0, 1, 2, 4, 5, 6, 7, 8, 9, 10], layout: &[(3, 1.0)] };

    fn factors(&self, preset: Preset, num: usize, layout: f64, boost: f64) -> (Vec<f64>, Vec<bool>) {
        let mut factors = vec![0.0; num];
        let mut set = |sites: &[usize], factor: f64| sites.iter().for_each(|&site| factors[site] = factor);
        match preset {
            Preset::Style | Preset::StyleLayout => set(self.style, 1.0),
            Preset::StrongStyle | Preset::StrongStyleLayout => set(self.strong_style, 1.0),
            Preset::StylePrecise => set(self.style, 1.0),
            Preset::LayoutPrecise => {
                set(&(0..num).collect::<Vec<_>>(), 0.1 * boost);
                set(self.style, boost);
            }
            _ => {}
        }
        let of_layout = match preset {
            Preset::Layout | Preset::LayoutPrecise => Some(1.0),
            Preset::StyleLayout | Preset::StrongStyleLayout => Some(layout),
            Preset::StylePrecise => Some(boost),
            _ => None,
        };
        for &(site, own) in self.layout {
            factors[site] = of_layout.map_or(factors[site], |factor| own * factor);
        }
        let is_layout = |site: usize| self.layout.iter().any(|(own, _)| *own == site);
        let swapped = |site: usize| match preset {
            Preset::StylePrecise => is_layout(site),
            Preset::LayoutPrecise => !is_layout(site),
            _ => false,
        };
        (factors, (0..num).map(swapped).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SD15: [&str; 16] =
        ["down", "down", "down", "down", "down", "down", "mid", "up", "up", "up", "up", "up", "up", "up", "up", "up"];
    const SDXL: [&str; 11] = ["down", "down", "down", "down", "mid", "up", "up", "up", "up", "up", "up"];

    fn of(preset: Preset, parts: &[&str]) -> Vec<f64> {
        factors(preset, parts, (0.5, 1.0)).unwrap().0
    }

    #[test]
    fn style_and_layout_of_sd15() {
        let style = [1., 1., 1., 1., 0., 0., 0., 0., 0., 1., 1., 1., 1., 1., 1., 1.];
        assert_eq!(of(Preset::Style, &SD15), style);
        let mut layout = [0.0; 16];
        layout[4..6].copy_from_slice(&[0.25, 1.0]);
        assert_eq!(of(Preset::Layout, &SD15), layout);
        let strong = [1., 1., 1., 1., 0., 0., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1.];
        assert_eq!(of(Preset::StrongStyle, &SD15), strong);
        let mut both = style;
        both[4..6].copy_from_slice(&[0.125, 0.5]);
        assert_eq!(of(Preset::StyleLayout, &SD15), both);
        let mut strong_both = strong;
        strong_both[4..6].copy_from_slice(&[0.125, 0.5]);
        assert_eq!(of(Preset::StrongStyleLayout, &SD15), strong_both);
    }

    #[test]
    fn style_and_layout_of_sdxl() {
        let only = |sites: &[(usize, f64)]| {
            let mut factors = vec![0.0; 11];
            sites.iter().for_each(|&(site, factor)| factors[site] = factor);
            factors
        };
        assert_eq!(of(Preset::Style, &SDXL), only(&[(6, 1.0)]));
        assert_eq!(of(Preset::Layout, &SDXL), only(&[(3, 1.0)]));
        assert_eq!(of(Preset::StyleLayout, &SDXL), only(&[(3, 0.5), (6, 1.0)]));
        assert_eq!(of(Preset::StrongStyle, &SDXL), [1., 1., 1., 0., 1., 1., 1., 1., 1., 1., 1.]);
    }

    #[test]
    fn precise_presets_swap_the_halves_where_they_hold_back() {
        let (style, swapped) = factors(Preset::StylePrecise, &SD15, (1.0, 0.8)).unwrap();
        assert_eq!((style[4], style[5], style[6], style[9]), (0.25 * 0.8, 0.8, 0.0, 1.0));
        assert!(swapped.iter().enumerate().all(|(site, &swapped)| swapped == (site == 4 || site == 5)));
        let (layout, swapped) = factors(Preset::LayoutPrecise, &SDXL, (1.0, 0.8)).unwrap();
        assert_eq!((layout[3], layout[6]), (1.0, 0.8));
        assert!((layout[0] - 0.08).abs() < 1e-12);
        assert!(swapped.iter().enumerate().all(|(site, &swapped)| swapped == (site != 3)));
    }

    #[test]
    fn courses_run_over_all_attentions() {
        let ease_in = of(Preset::EaseIn, &SD15);
        assert!((ease_in[0] - 1.0).abs() < 1e-12 && (ease_in[8] - (0.05 + 0.95 * 0.5)).abs() < 1e-12);
        assert!((of(Preset::EaseOut, &SDXL)[0] - 0.05).abs() < 1e-12);
        assert!((of(Preset::EaseInOut, &SD15)[8] - 1.0).abs() < 1e-12);
        assert!((of(Preset::ReverseInOut, &SD15)[8] - 0.05).abs() < 1e-12);
        assert_eq!(of(Preset::WeakInput, &SDXL), [0.2, 0.2, 0.2, 0.2, 1., 1., 1., 1., 1., 1., 1.]);
        assert_eq!(of(Preset::StrongMiddle, &SDXL), [0.2, 0.2, 0.2, 0.2, 1., 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]);
    }

    #[test]
    fn style_is_not_guessed_for_other_models() {
        assert!(factors(Preset::Style, &["down", "mid", "up"], (1.0, 1.0)).is_err());
        assert!(factors(Preset::EaseIn, &["down", "mid", "up"], (1.0, 1.0)).is_ok());
    }
}
