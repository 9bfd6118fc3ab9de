//! Settings as a TOML file.

use std::path::Path;

use super::TrainConfig;
use crate::TrainError;

impl TrainConfig {
    /// A TOML file with some of the fields, the others as `base` has them; paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the file, the field and what may stand there.
    pub fn from_toml(path: &Path, base: &Self) -> Result<Self, TrainError> {
        let fault = |reason: String| TrainError::Config { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        // Read by itself first: errors then tell line and column.
        toml::from_str::<Self>(&text).map_err(|error| fault(with_nearest(&error.to_string())))?;
        let mut fields = toml::Table::try_from(base).map_err(|error| fault(error.to_string()))?;
        let own: toml::Table = toml::from_str(&text).map_err(|error| fault(error.to_string()))?;
        for (name, value) in own {
            match (fields.get_mut(&name), value) {
                (Some(toml::Value::Table(section)), toml::Value::Table(own)) => section.extend(own),
                (_, value) => drop(fields.insert(name, value)),
            }
        }
        let mut config: Self = fields.try_into().map_err(|error: toml::de::Error| fault(error.to_string()))?;
        config.relative_to(base, path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// As TOML, to be read by [`TrainConfig::from_toml`].
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain values in sections")
    }

    /// Paths that differ from those of `base` are relative to `folder`.
    fn relative_to(&mut self, base: &Self, folder: &Path) {
        let paths = [
            (&mut self.model.image_encoder, &base.model.image_encoder),
            (&mut self.model.init_adapter, &base.model.init_adapter),
            (&mut self.model.clip, &base.model.clip),
            (&mut self.data.path, &base.data.path),
            (&mut self.data.cache_folder, &base.data.cache_folder),
            (&mut self.output.folder, &base.output.folder),
        ];
        for (own, _) in paths.into_iter().filter(|(own, base)| own != base) {
            let is_name = own.as_deref() == Some(Path::new("pocket")); // the model inside the program
            *own = own.take().map(|path| if is_name { path } else { folder.join(path) });
        }
        if let Some(name) = self.model.base.as_mut().filter(|name| self_named(name, &base.model.base)) {
            *name = folder.join(&*name).to_string_lossy().into_owned();
        }
    }
}

/// Whether a model's name is a path of this file's.
fn self_named(name: &str, base: &Option<String>) -> bool {
    name != "pocket" && base.as_deref() != Some(name)
}

/// A refusal of an unknown field with the known one that is nearest to it.
fn with_nearest(message: &str) -> String {
    let Some((_, rest)) = message.split_once("unknown field ") else { return message.to_owned() };
    let mut names = rest.split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else { return message.to_owned() };
    let distance = |name: &&str| strsim::damerau_levenshtein(unknown, name);
    match names.min_by_key(distance).filter(|name| distance(name) <= name.len().div_ceil(2)) {
        Some(nearest) => format!("{}; did you mean `{nearest}`?", message.trim_end()),
        None => message.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{LearningRate, tests::read};
    use super::*;

    #[test]
    fn a_file_says_what_differs_from_the_preset() {
        let base = TrainConfig::mini(64);
        let config = read("seed = 3\n[schedule]\nepochs = 2\nlearning_rate = \"cosine\"\n", &base).unwrap();
        assert_eq!((config.seed, config.schedule.epochs, config.data.resolution), (3, 2, 64));
        assert_eq!(config.schedule.learning_rate, LearningRate::Cosine);
        assert_eq!(read("", &base).unwrap(), base);
        assert_eq!(read(&config.to_toml(), &base).unwrap(), config);
    }

    #[test]
    fn paths_are_relative_to_the_file_and_names_are_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, "[model]\nbase = \"pocket\"\ninit_adapter = \"a.bin\"\n[data]\npath = \"data.json\"\n")
            .unwrap();
        let config = TrainConfig::from_toml(&path, &TrainConfig::mini(64)).unwrap();
        assert_eq!(config.model.base.as_deref(), Some("pocket"));
        assert_eq!(config.model.init_adapter, Some(folder.path().join("a.bin")));
        assert_eq!(config.data.path, Some(folder.path().join("data.json")));
        assert_eq!(config.recorded().data.path, None);
    }

    #[test]
    fn unknown_fields_are_refused_with_the_nearest_known_one() {
        let error = |text: &str| {
            let error = read(text, &TrainConfig::mini(64)).unwrap_err();
            anyhow::Error::from(error).chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
        };
        let told = error("[schedule]\nepoch = 2\n");
        assert!(told.contains("run.toml") && told.contains("did you mean `epochs`?"), "{told}");
        assert!(error("[shedule]\n").contains("did you mean `schedule`?"));
        assert!(!error("[schedule]\nxyz = 2\n").contains("did you mean"));
    }
}
