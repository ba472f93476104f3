"""Every name in the work folder.

    <output>.work/<run id>/run.json                     the frozen input, the settings and the unit bounds
    <output>.work/<run id>/source.json                  the version of the lake's table that is fetched
    <output>.work/<run id>/input.json                   the rows that a query or a table of a lake gave are all there
    <output>.work/<run id>/input/<attempt>/             these rows
    <output>.work/<run id>/score/<chunk>                scores, in input order
    <output>.work/<run id>/shards/*.json                what was decided: which row goes where
    <output>.work/<run id>/shards/<shard>/<unit>        the prompts of a shard, a unit of generation a file
    <output>.work/<run id>/<shard>/<unit>               their answers
    <output>.work/<run id>/cached/<shard>/*.json        which files of the cache are read, what is kept in it
    <output>.work/<run id>/cached/<shard>/<unit>        the cache's answers to rows of the shard's unit
    <output>.work/<run id>/calibrated/<unit>            what tonight's calibration measured
    <output>.work/<run id>/reader.safetensors           heads that were fitted to tonight's calibration
    <output>.work/<run id>/read/<unit>                  what a reader made of the small shard's answers, unit by unit
    <output>.work/<run id>/calibration_read/<unit>      the same of tonight's calibration
    <output>.work/<run id>/confidences/<part>           confidences of the small model's answers, in input order
    <output>.work/<run id>/confidence/<chunk>           the same, in runs of earlier versions
    <output>.work/<run id>/audit/<unit>                 what the audit measured
    <output>.work/<run id>/batches/<shard>/             provider batches: what was submitted, and what came back
    <output>.work/<run id>/precision/<side>.json        what `dtype: auto` took for a model
    <output>.work/<run id>/sharing/<model>.json         how rows of a model (a side, `router` or `reader`) share batches
    <output>.work/<run id>/lineage.json                 COMPLETE was sent, where the job sends events of lineage
    <output>.work/<run id>/merge/<part>.json            receipts of the output's parts, which lie in <output>/data/

A unit is `<unit>.parquet` and its receipt `<unit>.json`.
"""

RUN = "run.json"
SOURCE = "source.json"
INPUT = "input.json"
FETCHED = "input"
SCORE = "score"
DECISION = "shards/decision.json"
PARTITION = "shards/partition.json"
ESCALATION = "shards/escalation.json"
DRAWN = "shards/drawn.json"
TONIGHT = "shards/tonight.json"
WAY = "shards/way.json"
DEFERRAL = "shards/deferral.json"
AUDIT = "shards/audit.json"
SHARDS = "shards"
CACHED = "cached"
CACHE_FILES = "cached/{shard}/files.json"
RECALLED = "cached/{shard}/recalled.json"
KEPT = "kept-"
CALIBRATED = "calibrated"
READER = "reader.safetensors"
READ = "read"
CALIBRATION_READ = "calibration_read"
CONFIDENCE = "confidences"
EARLIER_CONFIDENCE = "confidence"
MEASURED = "audit"
BATCHES = "batches"
PRECISION = "precision/{side}.json"
SHARING = "sharing/{model}.json"
MERGE = "merge"
RETRY = "retry.json"
LINEAGE = "lineage.json"
