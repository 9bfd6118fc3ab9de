//! All measurements of an evaluation, in an order that depends on nothing but them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::Value;

use super::row::{RowKey, by_number};
use super::{EvaluationError, Method, MethodKind, PictureId, ProtocolSize, Row, Set, Settings, Skipped};

/// Rows by key. However they were split and in whatever order they came in, the same rows are the same measurements.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurements {
    settings: Settings,
    rows: BTreeMap<RowKey, Row>,
    /// Of the embeddings, as soon as there is one.
    width: Option<usize>,
    skipped: Vec<Skipped>,
}

impl Measurements {
    /// None yet.
    ///
    /// # Errors
    /// Those of [`Settings::check`].
    pub fn new(settings: Settings) -> Result<Self, EvaluationError> {
        settings.check()?;
        Ok(Self { settings, rows: BTreeMap::new(), width: None, skipped: Vec::new() })
    }

    /// What is measured, and how.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All pictures in order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// The pictures of a method.
    pub(super) fn rows_of<'a>(&'a self, method: &'a Method) -> impl Iterator<Item = &'a Row> {
        self.rows().filter(|row| row.method == method.name)
    }

    /// What tells the pictures from each other, in order.
    pub(super) fn keys(&self) -> Vec<RowKey> {
        self.rows.keys().cloned().collect()
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Cases that could not be evaluated, in order. One that was evaluated after all, once its file was mended, is gone.
    pub fn skipped(&self) -> impl Iterator<Item = &Skipped> {
        let is_open = |skip: &&Skipped| !self.rows().any(|row| row.set == skip.set && row.case == skip.case);
        self.skipped.iter().filter(is_open)
    }

    /// That picture, if it was measured already, so that a resumed run need not draw it.
    pub fn get(&self, id: &PictureId<'_>) -> Option<&Row> {
        self.rows.get(&self.key(id)?)
    }

    /// How many images of a protocol run are done, or skipped, of how many; nothing if all are, or if it is none.
    pub fn missing_part(&self) -> Option<(usize, usize)> {
        let ProtocolSize { num_images, num_samples } = self.settings.protocol?;
        let is_whole = |case: &[&Row]| {
            self.settings
                .methods
                .iter()
                .filter(|method| method.kind == MethodKind::Adapter)
                .all(|method| case.iter().filter(|row| row.method == method.name).count() >= num_samples as usize)
        };
        let rows: Vec<&Row> = self.rows().filter(|row| row.set == Set::Protocol).collect();
        let drawn = rows.chunk_by(|a, b| a.case == b.case).filter(|case| is_whole(case)).count();
        let skipped = self.skipped().filter(|skip| skip.set == Set::Protocol).count();
        (drawn + skipped < num_images).then_some((drawn + skipped, num_images))
    }

    /// The picture's place; `None` if the settings do not know its method.
    fn key(&self, id: &PictureId<'_>) -> Option<RowKey> {
        let &PictureId { set, case, method, prompt_index, scale, seed } = id;
        let (method, _) = self.settings.method(method)?;
        Some(RowKey { set, case: case.to_owned(), method, prompt_index, scale: scale + 0.0, seed }) // -0 becomes 0
    }

    /// Takes in a picture. The same one twice counts once.
    ///
    /// # Errors
    /// Those of [`Row::check`], [`EvaluationError::UnknownMethod`], [`EvaluationError::Value`] for an embedding of another
    /// width than the others, [`EvaluationError::Conflict`] for the same picture with other numbers.
    pub fn add(&mut self, row: Row) -> Result<(), EvaluationError> {
        row.check()?;
        let row = row.without_negative_zeros();
        let Some(key) = self.key(&row.id()) else {
            let known: Vec<String> = self.settings.methods.iter().map(|method| format!("`{}`", method.name)).collect();
            return Err(EvaluationError::UnknownMethod { file: row.file, method: row.method, known: known.join(", ") });
        };
        let width = row.embedding.as_ref().map(|embedding| embedding.values().len());
        if let (Some(found), Some(other)) = (width, self.width)
            && found != other
        {
            let problem = format!("has {found} values, and others have {other}: score all pictures with one model");
            return Err(EvaluationError::Value { file: row.file, field: "embedding", problem });
        }
        self.width = self.width.or(width);
        match self.rows.entry(key) {
            Entry::Vacant(place) => {
                place.insert(row);
                Ok(())
            }
            Entry::Occupied(known) if *known.get() == row => Ok(()),
            Entry::Occupied(known) => {
                let field = difference(known.get(), &row).map_or_else(|| "file".to_owned(), |found| found.field);
                Err(EvaluationError::Conflict { file: row.file, field })
            }
        }
    }

    /// Notes a case that cannot be evaluated, and tells whether that is news. A case counts once: of several reasons, as
    /// shards may find them, the first in order is kept, whichever came first.
    pub fn skip(&mut self, skipped: Skipped) -> bool {
        let order = |known: &Skipped| known.set.cmp(&skipped.set).then_with(|| by_number(&known.case, &skipped.case));
        let rest = |skip: &Skipped| (skip.file.clone(), skip.reason.clone());
        match self.skipped.binary_search_by(order) {
            Ok(place) if rest(&skipped) < rest(&self.skipped[place]) => {
                self.skipped[place] = skipped;
                true
            }
            Ok(_) => false,
            Err(place) => {
                self.skipped.insert(place, skipped);
                true
            }
        }
    }

    /// Takes in all of another shard.
    ///
    /// # Errors
    /// [`EvaluationError::Setting`] if it is of another evaluation, else those of [`Self::add`].
    pub fn merge(&mut self, other: Self) -> Result<(), EvaluationError> {
        if let Some(Difference { field, first, second }) = other_setting(&self.settings, &other.settings) {
            let problem = format!("differs between the shards, {first} and {second}: merge those of one evaluation");
            return Err(EvaluationError::Setting { field, problem });
        }
        other.rows.into_values().try_for_each(|row| self.add(row))?;
        for skipped in other.skipped {
            self.skip(skipped);
        }
        Ok(())
    }
}

/// A field in which two values differ, and what each has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) field: String,
    pub(super) first: String,
    pub(super) second: String,
}

/// The first setting that differs; if none but a choice does, its question.
pub(super) fn other_setting(a: &Settings, b: &Settings) -> Option<Difference> {
    let without_choices = |settings: &Settings| Settings { choices: Vec::new(), ..settings.clone() };
    let answers = |settings: &Settings| -> BTreeMap<String, String> {
        settings.choices.iter().map(|choice| (choice.question.clone(), choice.answer.clone())).collect()
    };
    let other_choice = || {
        let (first, second) = (answers(a), answers(b));
        let mut questions = a.choices.iter().chain(&b.choices).map(|choice| &choice.question);
        let field = questions.find(|question| first.get(*question) != second.get(*question))?;
        let answer = |of: &BTreeMap<String, String>| shown(of.get(field).map(|answer| answer.clone().into()).as_ref());
        Some(Difference { field: field.clone(), first: answer(&first), second: answer(&second) })
    };
    difference(&without_choices(a), &without_choices(b)).or_else(other_choice).or_else(|| difference(a, b))
}

/// The first field in which two values of one type differ.
fn difference<T: serde::Serialize>(a: &T, b: &T) -> Option<Difference> {
    let fields = |value: &T| match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (a, b) = (fields(a), fields(b));
    let field = a.keys().chain(b.keys()).find(|key| a.get(*key) != b.get(*key))?.clone();
    let (first, second) = (shown(a.get(&field)), shown(b.get(&field)));
    Some(Difference { field, first, second })
}

/// A value in a message, cut where it is long.
fn shown(value: Option<&Value>) -> String {
    const MAX_CHARS: usize = 160;
    let text = value.map_or_else(|| "missing".to_owned(), Value::to_string);
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::{row, settings};
    use super::super::{Choice, Embedding, Set};
    use super::*;

    fn measurements() -> Measurements {
        Measurements::new(settings()).unwrap()
    }

    #[test]
    fn the_same_picture_counts_once_and_other_numbers_for_it_are_refused() {
        let mut found = measurements();
        found.add(row("test 1", "mascot", 0)).unwrap();
        found.add(row("test 1", "mascot", 0)).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found.get(&row("test 1", "mascot", 0).id()).is_some());
        assert!(found.get(&row("test 1", "mascot", 1).id()).is_none());
        let other = Row { image_cosine: 0.5, ..row("test 1", "mascot", 0) };
        let error = found.add(other).unwrap_err().to_string();
        assert!(error.contains("measured twice with different `image_cosine`"), "{error}");
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_picture_and_field() {
        let refused = |row: Row| measurements().add(row).unwrap_err().to_string();
        let row = || row("test 1", "mascot", 0);
        for (field, wrong) in [
            ("image_cosine", Row { image_cosine: f64::NAN, ..row() }),
            ("text_cosine", Row { text_cosine: Some(1.5), ..row() }),
            ("caption_cosines", Row { caption_cosines: vec![0.2, -2.0], ..row() }),
            ("scale", Row { scale: -0.5, ..row() }),
            ("embedding", Row { embedding: Some(Embedding::new(vec![0.0; 4])), ..row() }),
            ("case", Row { case: String::new(), ..row() }),
        ] {
            let error = refused(wrong);
            assert!(error.contains(&format!("`{field}`")) && error.contains("mascot"), "{field}: {error}");
        }
        let error = refused(Row { method: "nobody".to_owned(), ..row() });
        assert!(error.contains("`nobody`") && error.contains("`mascot`"), "{error}");
    }

    #[test]
    fn embeddings_of_two_models_are_not_mixed() {
        let mut found = measurements();
        let with = |seed, values| Row { embedding: Some(Embedding::new(values)), ..row("test 1", "mascot", seed) };
        found.add(with(0, vec![1.0, 0.0])).unwrap();
        assert!(found.add(with(1, vec![1.0])).unwrap_err().to_string().contains("has 1 values, and others have 2"));
    }

    #[test]
    fn a_case_that_was_evaluated_after_all_is_not_skipped() {
        let mut found = measurements();
        let skip = |case: &str| Skipped {
            set: Set::Tests,
            case: case.to_owned(),
            file: format!("{case}.png"),
            reason: "cut off".to_owned(),
        };
        for case in ["test 10", "test 2", "test 10"] {
            found.skip(skip(case));
        }
        assert_eq!(found.skipped().map(|skip| skip.case.as_str()).collect::<Vec<_>>(), ["test 2", "test 10"]);
        found.add(row("test 2", "mascot", 0)).unwrap();
        assert_eq!(found.skipped().map(|skip| skip.case.as_str()).collect::<Vec<_>>(), ["test 10"]);
    }

    #[test]
    fn a_case_is_skipped_once_whatever_the_reasons_and_their_order() {
        let skip = |reason: &str| Skipped {
            set: Set::Protocol,
            case: "7".to_owned(),
            file: "7.png".to_owned(),
            reason: reason.to_owned(),
        };
        for reasons in [["cut off", "not there"], ["not there", "cut off"]] {
            let mut found = measurements();
            reasons.iter().for_each(|reason| assert_eq!(found.skip(skip(reason)), found.skipped[0].reason == *reason));
            assert_eq!(found.skipped().map(|skip| skip.reason.as_str()).collect::<Vec<_>>(), ["cut off"]);
        }
    }

    #[test]
    fn a_part_of_a_protocol_run_says_how_much_of_it_is_there() {
        let size = ProtocolSize { num_images: 4, num_samples: 2 };
        let mut found = Measurements::new(Settings { protocol: Some(size), ..settings() }).unwrap();
        let draw = |found: &mut Measurements, case: &str, method: &str, seed| {
            found.add(Row { set: Set::Protocol, ..row(case, method, seed) }).unwrap();
        };
        for (case, method, seed) in [("1", "mascot", 0), ("1", "mascot", 1), ("1", "base", 0), ("1", "base", 1)] {
            draw(&mut found, case, method, seed);
        }
        draw(&mut found, "2", "mascot", 0);
        assert_eq!(found.missing_part(), Some((1, 4)), "an image with a part of its pictures is missing");
        for case in ["2", "3", "4"] {
            found.skip(Skipped { set: Set::Protocol, case: case.into(), file: "a".into(), reason: "b".into() });
        }
        assert_eq!(found.missing_part(), Some((3, 4)));
        for (method, seed) in [("mascot", 1), ("base", 0), ("base", 1)] {
            draw(&mut found, "2", method, seed);
        }
        assert_eq!(found.missing_part(), None);
    }

    #[test]
    fn shards_of_two_evaluations_are_not_merged() {
        let other = Measurements::new(Settings { num_steps: 3, ..settings() }).unwrap();
        assert!(measurements().merge(other).unwrap_err().to_string().contains("`num_steps` differs"));
    }

    #[test]
    fn a_choice_that_differs_is_named_by_its_question() {
        let choice = |answer: &str| Choice { question: "Seeds".to_owned(), answer: answer.to_owned() };
        let with = |choices| Settings { choices, ..settings() };
        let found = other_setting(&with(vec![choice("0, 1")]), &with(vec![choice("0")]));
        let difference =
            |first: &str| Difference { field: "Seeds".to_owned(), first: first.to_owned(), second: "\"0\"".to_owned() };
        assert_eq!(found, Some(difference("\"0, 1\"")));
        assert_eq!(other_setting(&settings(), &with(vec![choice("0")])), Some(difference("missing")));
        let other = Settings { num_steps: 7, ..with(vec![choice("0")]) };
        let found = other_setting(&settings(), &other).map(|found| (found.field, found.first, found.second));
        let expected = ("num_steps", "50", "7"); // a setting of its own comes first
        assert_eq!(found, Some((expected.0.to_owned(), expected.1.to_owned(), expected.2.to_owned())));
        assert_eq!(other_setting(&settings(), &settings()), None);
    }

    #[test]
    fn settings_that_describe_nothing_are_refused_by_field() {
        let method = settings().methods[0].clone();
        for (field, wrong) in [
            ("methods", Settings { methods: Vec::new(), ..settings() }),
            ("methods", Settings { methods: vec![method.clone(), method], ..settings() }),
            ("scale", Settings { scale: f64::INFINITY, ..settings() }),
            ("scales", Settings { scales: vec![1.0, 0.5], ..settings() }),
            ("scales", Settings { scales: vec![0.5, 0.5], ..settings() }),
        ] {
            let error = Measurements::new(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("setting `{field}`")), "{error}");
        }
    }
}
