//! Words for scenes. Captions leave things out on purpose: what they do not say, an image prompt can.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::palette::{Background, Color};
use crate::scene::{Fill, Object, Place, Scene, Shape, Size, Style, pick, rng_at};

const PURPOSE: u64 = 3;

/// A caption such as a user might write, naming only some of what is seen.
///
/// The main object's shape is named in 95 of 100 captions, its colour in 85, everything else less often: fill 65,
/// background and style 60, size and place 35.
/// At most 28 words. The same `(seed, index)` gives the same choices.
pub fn caption(scene: &Scene, seed: u64, index: u64) -> String {
    let mut rng = rng_at(seed, index, PURPOSE);
    let mentions = Mentions::draw(&mut rng);
    let opening = pick(&mut rng, &["", "", "", "a picture of ", "a drawing of ", "there is "]);
    format!("{opening}{}", describe(scene, &mentions))
}

/// A caption that names everything the scene holds.
pub fn full_caption(scene: &Scene) -> String {
    describe(scene, &Mentions::ALL)
}

/// `a {color} {fill} {shape}`.
pub fn main_caption(scene: &Scene) -> String {
    let main = scene.main();
    noun_phrase(&[color_word(main), Some(main.fill.word()), Some(main.shape.word())])
}

/// [`main_caption`] with background and style: all that [`judge`](crate::judge()) looks at.
pub fn judged_caption(scene: &Scene) -> String {
    let background = background_phrase("on", scene.background);
    format!("{}{background}, {} style", main_caption(scene), scene.style.word())
}

/// Every word captions may contain, the comma included, in a fixed order without repetition.
pub fn vocabulary() -> Vec<&'static str> {
    let grammar = [
        "a",
        "an",
        "and",
        "against",
        "at",
        "background",
        "drawing",
        "fin",
        "in",
        "is",
        "next",
        "of",
        "on",
        "picture",
        "pip",
        "shape",
        "style",
        "the",
        "there",
        "to",
        "with",
        ",",
    ];
    grammar
        .into_iter()
        .chain(Shape::ALL.map(Shape::word))
        .chain(Color::ALL.map(Color::word))
        .chain([Size::Tiny.word()])
        .chain(Size::MAIN.map(Size::word))
        .chain(Fill::ALL.map(Fill::word))
        .chain(Style::ALL.map(Style::word))
        .chain(Place::ALL.map(Place::word))
        .chain(Background::ALL.map(Background::word))
        .collect()
}

/// What a caption says, and how.
struct Mentions {
    shape: bool,
    color: bool,
    fill: bool,
    size: bool,
    place: bool,
    background: Option<&'static str>,
    style: bool,
    num_companions: usize,
    companion_size: bool,
    joint: &'static str,
}

impl Mentions {
    const ALL: Self = Self {
        shape: true,
        color: true,
        fill: true,
        size: true,
        place: true,
        background: Some("on"),
        style: true,
        num_companions: 2,
        companion_size: true,
        joint: "next to",
    };

    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let percent = |rng: &mut ChaCha8Rng, chance: u32| rng.random_range(0..100_u32) < chance;
        Self {
            shape: percent(rng, 95),
            color: percent(rng, 85),
            fill: percent(rng, 65),
            size: percent(rng, 35),
            place: percent(rng, 35),
            background: percent(rng, 60).then(|| pick(rng, &["on", "on", "against"])),
            style: percent(rng, 60),
            num_companions: if percent(rng, 70) { 1 + usize::from(percent(rng, 40)) } else { 0 },
            companion_size: percent(rng, 40),
            joint: pick(rng, &["next to", "with", "and"]),
        }
    }
}

/// A tint has no word.
fn color_word(object: &Object) -> Option<&'static str> {
    object.tint.is_none().then(|| object.color.word())
}

fn describe(scene: &Scene, mentions: &Mentions) -> String {
    let main = scene.main();
    let mut caption = noun_phrase(&[
        mentions.size.then(|| main.size.word()),
        mentions.color.then(|| color_word(main)).flatten(),
        mentions.fill.then(|| main.fill.word()),
        Some(if mentions.shape { main.shape.word() } else { "shape" }),
    ]);
    if mentions.place {
        caption += &place_phrase(main.place());
    }
    if let Some(preposition) = mentions.background {
        caption += &background_phrase(preposition, scene.background);
    }
    if mentions.style {
        caption += &format!(", {} style", scene.style.word());
    }
    caption + &companions_phrase(&scene.objects[1..], mentions)
}

/// ` in the center`, ` on the left`, ` at the top`.
pub(crate) fn place_phrase(place: Place) -> String {
    let preposition = match place {
        Place::Center => "in",
        Place::Left | Place::Right => "on",
        Place::Top | Place::Bottom => "at",
    };
    format!(" {preposition} the {}", place.word())
}

/// ` on a gray background`.
pub(crate) fn background_phrase(preposition: &str, background: Background) -> String {
    format!(" {preposition} a {} background", background.word())
}

/// The words with their article.
pub(crate) fn noun_phrase(words: &[Option<&str>]) -> String {
    let words: Vec<_> = words.iter().flatten().copied().collect();
    let vowel = words.first().is_some_and(|word| word.starts_with(['a', 'e', 'i', 'o', 'u']));
    format!("{} {}", if vowel { "an" } else { "a" }, words.join(" "))
}

fn companions_phrase(companions: &[Object], mentions: &Mentions) -> String {
    let named: Vec<_> = companions
        .iter()
        .take(mentions.num_companions)
        .map(|object| {
            let size = mentions.companion_size.then(|| object.size.word());
            noun_phrase(&[size, Some(object.color.word()), Some(object.shape.word())])
        })
        .collect();
    if named.is_empty() {
        return String::new();
    }
    let comma = if mentions.style { "," } else { "" };
    format!("{comma} {} {}", mentions.joint, named.join(" and "))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::scene::Split;

    fn captions() -> impl Iterator<Item = (Scene, String)> {
        (0..20_000).map(|index| {
            let scene = Scene::draw_at(11, index, Split::Train);
            let caption = caption(&scene, 11, index);
            (scene, caption)
        })
    }

    fn words(caption: &str) -> Vec<String> {
        caption.replace(',', " ,").split_whitespace().map(String::from).collect()
    }

    #[test]
    fn captions_use_the_vocabulary_and_at_most_28_words() {
        let vocabulary: HashSet<_> = vocabulary().into_iter().collect();
        for (scene, caption) in captions() {
            for text in [&caption, &full_caption(&scene), &main_caption(&scene)] {
                let unknown: Vec<_> = words(text).into_iter().filter(|w| !vocabulary.contains(w.as_str())).collect();
                assert!(unknown.is_empty(), "{text}: {unknown:?}");
            }
            assert!(caption.split_whitespace().count() <= 28, "{caption}");
        }
    }

    #[test]
    fn the_vocabulary_has_no_word_twice_and_none_that_is_never_said() {
        let vocabulary = vocabulary();
        let distinct: HashSet<_> = vocabulary.iter().map(ToString::to_string).collect();
        assert_eq!(distinct.len(), vocabulary.len());
        let mut said: HashSet<String> = HashSet::from(["pip".to_owned(), "fin".to_owned()]);
        for (scene, caption) in captions() {
            said.extend(words(&caption));
            said.extend(words(&full_caption(&scene)));
        }
        assert_eq!(said, distinct);
    }

    #[test]
    fn shape_is_nearly_always_named_and_color_mostly() {
        let (mut shapes, mut colors) = (0, 0);
        let (mut single, mut total) = (0, 0);
        let simple = |scene: &Scene| scene.objects.len() == 1 && scene.main().tint.is_none();
        for (scene, caption) in captions().filter(|(scene, _)| simple(scene)) {
            total += 1;
            let words = words(&caption);
            shapes += usize::from(words.iter().any(|w| w == scene.main().shape.word()));
            colors += usize::from(words.iter().any(|w| w == scene.main().color.word()));
            single += usize::from(!words.iter().any(|w| w == "next" || w == "and" || w == "with"));
        }
        let share = |count: usize| count as f64 / total as f64;
        assert!((0.94..0.96).contains(&share(shapes)));
        assert!((0.84..0.86).contains(&share(colors)));
        assert_eq!(single, total);
    }

    #[test]
    fn no_caption_names_a_color_in_place_of_a_tint() {
        for (mut scene, _) in captions().take(200) {
            scene.objects.truncate(1);
            scene.objects[0].tint = Some([1, 2, 3]);
            let words = [words(&full_caption(&scene)), words(&main_caption(&scene))].concat();
            assert!(words.iter().all(|word| Color::ALL.iter().all(|color| word != color.word())));
        }
    }

    #[test]
    fn main_captions_name_color_fill_and_shape() {
        let mut scene = Scene::draw_at(0, 0, Split::Train);
        scene.objects[0].color = Color::Orange;
        scene.objects[0].tint = None;
        scene.objects[0].shape = Shape::Star;
        scene.objects[0].fill = Fill::Striped;
        assert_eq!(main_caption(&scene), "an orange striped star");
        let judged = judged_caption(&scene);
        assert!(judged.starts_with("an orange striped star on a ") && judged.ends_with(" style"), "{judged}");
        scene.objects[0].color = Color::Red;
        scene.objects[0].fill = Fill::Solid;
        assert_eq!(main_caption(&scene), "a red solid star");
    }
}
