//! Bringing an image into the store: one process converts, the others wait and use the result.

use super::claim::{Claim, Watch, is_absent};
use super::error::{Error, chain};
use super::evict::Policy;
use super::metadata::Metadata;
use super::refs::{self, Ref, reference, stamp};
use super::{Store, Stored, image_in, key, note_use, small, space, visible};
use crate::convert::Opened;
use crate::digest::HashingReader;
use crate::options::{Event, Options, Progress, Report};
use crate::output::Output;
use crate::source::Source;
use std::fs;
use std::io::Seek;
use std::path::PathBuf;

/// An image that was pulled.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image file.
    pub path: PathBuf,
    /// Its key.
    pub key: String,
    /// What it is called in the store.
    pub name: String,
    /// What the conversion said; `None` when the image was there or somebody else converted it.
    pub report: Option<Report>,
}

/// What is to be stored.
struct Wanted<'a> {
    opened: Opened<'a>,
    options: &'a Options,
    progress: &'a dyn Progress,
    /// The source's own name.
    source: String,
    name: &'a str,
    stamp: Option<String>,
}

/// An image, and the report of who made it.
type Made = (Stored, Option<Report>);

impl Store {
    /// Has the source's image in the store, converted if it is not there, and gives it a name: the source's own if there
    /// is no other. The source is looked at anew, whatever the name stood for.
    ///
    /// Many processes and hosts may do this at once; the image is converted once.
    ///
    /// # Errors
    /// When the source is damaged, by whomever that was found, or the store cannot be written or is full.
    pub fn pull(
        &self,
        source: &Source,
        name: Option<&str>,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Pulled, Error> {
        name.map_or(Ok(()), refs::check)?;
        let source_name = reference(source);
        let stamp = stamp(source);
        let opened = Opened::open(source, options)?;
        let name = name.unwrap_or(&source_name).to_owned();
        let wanted = Wanted { opened, options, progress, source: source_name.clone(), name: &name, stamp };
        let (stored, report) = self.store(&wanted).map_err(|error| space::explained(error, &self.dir, 0))?;
        note_use(&stored.path);
        if report.is_some() {
            self.keep_below_max_size(&stored.key)?;
        }
        Ok(Pulled { path: stored.path, key: stored.key, name, report })
    }

    fn store(&self, wanted: &Wanted<'_>) -> Result<Made, Error> {
        for dir in [self.images_dir(), self.refs.0.clone(), self.claims.dir().to_path_buf()] {
            fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
        }
        let made = match key::of_image(&wanted.opened, wanted.options) {
            Some(key) => {
                let made =
                    self.once(&key, wanted, |_| Ok(self.find(&key)), |claim, _| self.make(&key, claim, wanted))?;
                self.complete(&made.0, wanted);
                made
            }
            // Its key is known when it is done. Others can wait for that if they can tell that they want the same.
            None => match &wanted.stamp {
                Some(stamp) => {
                    let attempt = key::of_attempt(&wanted.source, stamp, wanted.options);
                    let result = |owner: Option<&str>| self.result_of(owner, wanted);
                    self.once(&attempt, wanted, result, |claim, waited| {
                        self.make_unknown(&attempt, Some(claim), waited, wanted)
                    })?
                }
                None => {
                    match self.make_unknown(&key::of_attempt(&wanted.source, "", wanted.options), None, None, wanted)? {
                        Some(made) => made,
                        None => {
                            return Err(Error::file("create", self.images_dir())(std::io::ErrorKind::NotFound.into()));
                        }
                    }
                }
            },
        };
        let named = self.name(&made.0.key, None, wanted);
        let has_names = || self.refs.list().map_or(true, |refs| refs.iter().any(|one| one.key == made.0.key));
        if named.is_err() && made.1.is_some() && !has_names() {
            // Nobody would find it.
            self.unlink(&made.0.path)?;
        }
        named.map(|()| made)
    }

    /// Waits for whoever converts, or does it. `found` looks for the result, of the owner that was waited for if there was
    /// one, of which `make` hears, too; that gives `None` when the claim was lost to somebody else.
    fn once(
        &self,
        key: &str,
        wanted: &Wanted<'_>,
        found: impl Fn(Option<&str>) -> Result<Option<Stored>, Error>,
        make: impl Fn(&Claim<'_>, Option<&str>) -> Result<Option<Made>, Error>,
    ) -> Result<Made, Error> {
        let mut watch = Watch::default();
        let mut told = String::new();
        loop {
            if let Some(stored) = found(watch.id())? {
                self.tidy(key)?;
                wanted.progress.event(Event::Stored);
                return Ok((stored, None));
            }
            match self.claims.read(key)? {
                None => {
                    let failure = watch.id().and_then(|owner| self.claims.failure(key, owner, &wanted.source));
                    if let Some((host, message)) = failure {
                        return Err(Error::Elsewhere { host, message });
                    }
                    let Some(claim) = self.claims.take(key)? else {
                        watch.pause();
                        continue;
                    };
                    let made = make(&claim, watch.id());
                    if let Err(error) = &made
                        && is_final(error)
                    {
                        self.claims.note_failure(&claim, &wanted.source, &chain(error));
                    }
                    if matches!(made, Ok(Some(_))) {
                        self.claims.forget_failure(key);
                    }
                    claim.release();
                    if let Some(made) = made? {
                        return Ok(made);
                    }
                }
                Some(seen) => {
                    if told != seen.id {
                        let (host, pid) = seen.owner();
                        wanted.progress.event(Event::Waiting { host, pid });
                        told.clone_from(&seen.id);
                    }
                    if !watch.look(&self.claims, key, &seen)? {
                        watch.pause();
                    }
                }
            }
        }
    }

    /// Removes what an owner left that died when its image was stored, but before it had given up its claim.
    fn tidy(&self, key: &str) -> Result<(), Error> {
        if let Some(seen) = self.claims.read(key)?.filter(|seen| seen.is_gone(self.claims.own()))
            && self.claims.retire(key, &seen.id)?
        {
            self.sweep(&self.left(Some(key))?);
        }
        Ok(())
    }

    /// Converts an image whose key is known.
    fn make(&self, key: &str, claim: &Claim<'_>, wanted: &Wanted<'_>) -> Result<Option<Made>, Error> {
        let path = image_in(&self.dir, key);
        let tag = self.claims.own().to_string();
        let output = Output::create_tagged(&path, false, &tag);
        // Only now, with a file made there and the claim held, is it certain that the last owner left none.
        if matches!(output, Err(crate::Error::OutputExists { .. })) || visible::is_there(&path)? {
            wanted.progress.event(Event::Stored);
            return Ok(Some((Stored { path, key: key.to_owned() }, None)));
        }
        let output = output?;
        self.sweep(&self.left(Some(key))?);
        let Some(report) = self.write(output, Some(claim), wanted, |_| Ok(()))? else { return Ok(None) };
        let stored = Stored { path, key: key.to_owned() };
        self.complete(&stored, wanted);
        Ok(Some((stored, report)))
    }

    /// Converts an image whose key is a hash of the result, unless that is what was waited for.
    fn make_unknown(
        &self,
        attempt: &str,
        claim: Option<&Claim<'_>>,
        waited: Option<&str>,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Made>, Error> {
        if waited.is_some() {
            self.refs.await_name(wanted.name, &wanted.options.architecture, self.claims.own())?;
            if let Some(stored) = self.result_of(waited, wanted)? {
                wanted.progress.event(Event::Stored);
                return Ok(Some((stored, None)));
            }
        }
        let tag = self.claims.own().to_string();
        let output = Output::create_tagged(&image_in(&self.dir, attempt), false, &tag)?;
        self.sweep(&self.left(claim.map(|_| attempt))?);
        let mut key = String::new();
        let by_content = |output: &mut Output| {
            let mut file = output.writer()?;
            file.rewind().map_err(crate::Error::file("read", output.path()))?;
            let mut reader = HashingReader::new(file, true, u64::MAX);
            reader.drain().map_err(crate::Error::file("read", output.path()))?;
            key = reader.finish().1.map(|digest| key::of_content(&digest)).unwrap_or_default();
            output.rename(&format!("{key}.sqfs"));
            Ok(())
        };
        let Some(report) = self.write(output, claim, wanted, by_content)? else { return Ok(None) };
        let stored = Stored { path: image_in(&self.dir, &key), key };
        self.complete(&stored, wanted);
        // Those who wait find it by that.
        self.name(&stored.key, claim.map(Claim::token), wanted)?;
        Ok(Some((stored, report)))
    }

    /// Converts and publishes; `None` when meanwhile somebody else took over. The report is missing when somebody else was
    /// faster after all.
    fn write(
        &self,
        output: Output,
        claim: Option<&Claim<'_>>,
        wanted: &Wanted<'_>,
        named: impl FnOnce(&mut Output) -> Result<(), crate::Error>,
    ) -> Result<Option<Option<Report>>, Error> {
        let mut output = output;
        self.make_room(wanted.opened.least_bytes())?;
        wanted.progress.event(Event::Converting);
        let work = || -> Result<Option<Option<Report>>, Error> {
            let report = wanted.opened.write(&output, wanted.options, wanted.progress).map_err(|error| {
                let written = output.writer().and_then(|file| {
                    file.metadata().map(|file| file.len()).map_err(crate::Error::file("examine", output.path()))
                });
                space::explained(error.into(), &self.dir, written.unwrap_or_default())
            })?;
            named(&mut output)?;
            // Publishing would do no harm either: it replaces nothing.
            if claim.map_or(Ok(true), Claim::is_mine)? {
                return match output.publish() {
                    Ok(()) => Ok(Some(Some(report))),
                    Err(crate::Error::OutputExists { .. }) => Ok(Some(None)),
                    // Swept away by somebody who had taken over.
                    Err(crate::Error::File { source, .. }) if is_absent(&source) => Ok(None),
                    Err(error) => Err(error.into()),
                };
            }
            Ok(None)
        };
        match claim {
            Some(claim) => claim.while_beating(work),
            None => work(),
        }
    }

    /// Notes what the image is, unless that is noted. The image is whole without it.
    fn complete(&self, stored: &Stored, wanted: &Wanted<'_>) {
        let noted = stored.path.with_extension("json");
        if !stored.path.starts_with(&self.dir) || noted.exists() {
            return;
        }
        if let Ok(file) = fs::metadata(&stored.path) {
            let metadata = Metadata::new(&wanted.opened, &wanted.source, file.len());
            let _ = small::write_json(&noted, &metadata, self.claims.own());
        }
    }

    fn name(&self, key: &str, by: Option<&str>, wanted: &Wanted<'_>) -> Result<(), Error> {
        let own_name = wanted.name == wanted.source;
        let new = Ref {
            name: wanted.name.to_owned(),
            architecture: wanted.options.architecture.clone(),
            key: key.to_owned(),
            // A name that was chosen stands for what the source had when it was.
            stamp: wanted.stamp.clone().filter(|_| own_name),
            by: by.map(str::to_owned),
        };
        self.refs.write(&new, self.claims.own())
    }

    /// What the owner of a claim made of a source that did not say what it is.
    fn result_of(&self, owner: Option<&str>, wanted: &Wanted<'_>) -> Result<Option<Stored>, Error> {
        let Some(owner) = owner else { return Ok(None) };
        let made = self.refs.read(wanted.name, &wanted.options.architecture)?;
        Ok(made.filter(|made| made.by.as_deref() == Some(owner)).and_then(|made| self.find(&made.key)))
    }

    /// Makes room for at least so much, as far as the settings allow, or says that there is none.
    fn make_room(&self, least: u64) -> Result<(), Error> {
        if let Some(max) = self.settings.max_size {
            if least > max {
                return Err(Error::MaxSize { dir: self.dir.clone(), needed: least, max });
            }
            self.prune(&Policy { max_size: Some(max - least), evict_only: true, ..Policy::default() })?;
        }
        let free = space::free(&self.dir)?;
        if free < least {
            return Err(Error::Space { dir: self.dir.clone(), needed: least, free });
        }
        Ok(())
    }

    fn keep_below_max_size(&self, keep: &str) -> Result<(), Error> {
        let Some(max) = self.settings.max_size else { return Ok(()) };
        let keep = Some(keep.to_owned());
        self.prune(&Policy { max_size: Some(max), evict_only: true, keep, ..Policy::default() }).map(drop)
    }
}

/// Whether everybody would find the same wrong with the source, so that nobody else need try.
fn is_final(error: &Error) -> bool {
    use crate::Error as E;
    let Error::Convert(error) = error else { return false };
    matches!(
        error,
        E::BlobSize { .. }
            | E::BlobDigest { .. }
            | E::DiffId { .. }
            | E::Decompress { .. }
            | E::Compression { .. }
            | E::LayerTooLarge { .. }
            | E::Tar { .. }
            | E::Entry { .. }
            | E::Link { .. }
            | E::Limit { .. }
            | E::Image { .. }
            | E::ImageEntry { .. }
    )
}
