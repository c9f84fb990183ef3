//! Drives the layers of an image through the flattener, content into a sink.

use crate::error::Error;
use crate::flatten::tree::FileTree;
use crate::flatten::{Counts, Flattener, Verdict};
use crate::layer::{self, ChunkInput, Layer};
use crate::options::{Event, Options, Progress};
use crate::sink::DataSink;
use crate::tar::{End, Entry, Piece, Problem, Reader};

/// Reads all layers (given from the bottom up) into one tree.
///
/// # Errors
/// When a layer is damaged or has entries that no image can have, or the sink fails.
pub fn flatten<S: DataSink>(
    layers: &[Layer],
    whiteouts: bool,
    sink: &mut S,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(FileTree<S::Id>, Counts), Error> {
    let mut flattener = Flattener::new(options.max_entries, whiteouts);
    let dangling = |dangling: crate::flatten::Dangling| Error::Link {
        layer: layers.get(dangling.rank as usize).map_or_else(String::new, |layer| layer.name.clone()),
        entry: dangling.path,
        source: dangling.problem,
    };
    for (done, (rank, layer)) in layers.iter().enumerate().rev().enumerate() {
        progress.event(Event::LayerStarted { index: done, total: layers.len(), name: &layer.name, bytes: layer.size });
        flattener.begin_layer(rank as u32, layer.estargz);
        let mut pass = Pass { layer, flattener: &mut flattener, sink, limit: options.max_layer_bytes, again: false };
        let advanced = |bytes| progress.event(Event::Advanced { bytes });
        layer::read(layer, options.max_layer_bytes, &advanced, |input| pass.run(input))?;
        if flattener.end_layer().map_err(dangling)? {
            let mut pass = Pass { layer, flattener: &mut flattener, sink, limit: options.max_layer_bytes, again: true };
            layer::read(layer, options.max_layer_bytes, &|_| {}, |input| pass.run(input))?;
        }
        progress.event(Event::LayerFinished { index: done });
    }
    let counts = flattener.counts();
    Ok((flattener.finish().map_err(dangling)?, counts))
}

/// One reading of one layer.
struct Pass<'a, S: DataSink> {
    layer: &'a Layer,
    flattener: &'a mut Flattener<S::Id>,
    sink: &'a mut S,
    limit: u64,
    again: bool,
}

impl<S: DataSink> Pass<'_, S> {
    fn run(&mut self, input: &mut ChunkInput) -> Result<(), Error> {
        let tar_error = |source| Error::Tar { layer: self.layer.name.clone(), source };
        let mut reader = Reader::new(input);
        let mut entry = Entry::default();
        // Holes cost nothing in the layer, but every block of them does in the image.
        let mut logical = 0u64;
        while reader.next(&mut entry).map_err(tar_error)? {
            let verdict = match self.again {
                false => self.flattener.entry(&mut entry),
                true => self.flattener.entry_again(&mut entry),
            };
            let verdict = verdict.map_err(|source| Error::Entry {
                layer: self.layer.name.clone(),
                entry: entry.path.clone(),
                offset: entry.offset,
                source,
            })?;
            if let Verdict::Store(inode) = verdict {
                logical = logical.saturating_add(entry.size);
                if logical > self.limit {
                    return Err(Error::LayerTooLarge { layer: self.layer.name.clone(), limit: self.limit });
                }
                let path = self.flattener.path();
                let id = self.sink.file(path, entry.size, &mut |content| {
                    while let Some(piece) = reader.data().map_err(tar_error)? {
                        match piece {
                            Piece::Data(bytes) => content.data(bytes)?,
                            Piece::Hole(length) => content.hole(length)?,
                        }
                    }
                    Ok(())
                })?;
                self.flattener.stored(inode, id);
            }
        }
        // Without a digest of the whole, only the end marker tells a complete archive from one that was cut.
        if self.layer.diff_id.is_none() && reader.end() != Some(End::Marked) {
            return Err(tar_error(reader.fail(Problem::NoEndMarker)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
