/* Many writers, several prunes, no locks: the ordering rules I1 to I7 of docs/format.md as a model.
 *
 * docs/protocol.md explains it, tests/model.rs runs it. One chunk is looked at. Every pack holds a copy of
 * it, every snapshot needs it. So the chunk is lost when a snapshot exists and no pack does, and it can't be
 * found when no index object lists a pack that exists: `safe()` asserts both after whatever could break them.
 *
 * One statement, `atomic` or `d_step` is one call to the storage, with what its process does without the
 * storage after it. A process may stop for ever after each (a crash), or for as long as it likes (a
 * suspended machine): that is the interleaving. A rule is taken away with -DNO_<RULE>; a scenario is chosen
 * with -DSCENARIO=<n>, at the end of this file.
 *
 * Packs: 0 was there before; 1 and 2 are the writers' new ones; 3 and 4 those that the prunes repack into.
 * In scenarios 8 and 9 the copy in a pack may be damaged, in 10 forgets publish generations.
 * Sessions: 0 and 1 the writers, 2 and 3 the prunes. Sets of packs, sessions, snapshots are bit masks.
 */

#define bit(n)        (1 << (n))
#define has(set, n)   (((set) >> (n)) & 1)

#define NONE     0
#define MANIFEST 1
#define FENCE    2

/* The storage. */
byte packs;             /* packs/ */
byte own_index;         /* index/, as writers and repacking made them: each lists the pack of its number */
byte new_index[4];      /* index/, as prunes rewrote them: the packs that each lists, 0 for no object */
byte gen;               /* prune/: the newest generation, */
byte condemned;         /* what it condemns, */
byte since[5];          /* and since when */
byte sessions;          /* sessions/ */
byte beat[4];           /* the generation in a heartbeat; 0 without one */
byte names[4];          /* snapshots/: what stands under each session's name */
bit first;              /* snapshots/: one that was there before */

/* Not of the storage: the old index objects that each prune is about to delete. Their numbers are not used again. */
short replaced[2];

/* Answers get lost where there are writers of both kinds and one prune. */
#if SCENARIO == 1
#define LOST_ANSWERS
#endif

/* Where two prunes are alike, the first to read the generation is called 2: that halves the search. */
#if SCENARIO == 5 || SCENARIO == 10
#define ALIKE
bit one_began;
#endif

/* Damaged copies: a rotten one, or one that a hostile writer made up. */
#if SCENARIO == 8 || SCENARIO == 9
#define DAMAGE
byte whole = 255;       /* packs whose copy is whole: only who reads it knows */
byte distrusted;        /* what the newest generation distrusts */
#else
#define whole 255
#define distrusted 0
#endif

/* A hostile writer with a write-only key, in place of writer 0. */
#if SCENARIO == 9
#define unvouched bit(1) /* packs that a write-only slot wrote, another one than the reader's */
byte foreign;           /* heartbeats that it has replaced */
byte claims;            /* snapshots of write-only slots, as bits of `published` */
byte belied;            /* packs of others that its index objects describe as empty */
#ifdef NO_CLAIMS_OF_OWN_PACKS
#define emptied belied
#else
#define emptied 0
#endif
#ifdef NO_OWN_HEARTBEAT
#define told(n) (has(foreign, n) -> 255 : beat[n])
#else
#define told(n) (has(foreign, n) -> 0 : beat[n])
#endif
#else
#define unvouched 0
#define claims 0
#define emptied 0
#define told(n) beat[n]
#endif

/* Forgets publish generations; prune accepts those that came after the one it surveyed by. */
#if SCENARIO == 10
bit second;             /* snapshots/: another one of the series of `first`; it needs no pack */
byte forgotten;         /* in the newest generation: the snapshots of `series` that are to go, */
byte judged;            /* and the last generation that a prune published */
#define series (first | (second << 1))
#else
#define judged gen
#endif

#define indexed (own_index | new_index[0] | new_index[1] | new_index[2] | new_index[3])
#define published (first | ((names[0] == MANIFEST) << 1) | ((names[1] == MANIFEST) << 2))

inline safe() {
    /* Every published snapshot can be restored: its chunk is there, and the index says where. */
    assert(!published || (packs & whole));
    assert(!published || (packs & whole & indexed));
}

/* One of the packs in a set. */
inline one_of(set, pack) {
    if
    :: has(set, 0) -> pack = 0
    :: has(set, 1) -> pack = 1
    :: has(set, 2) -> pack = 2
    :: has(set, 3) -> pack = 3
    :: has(set, 4) -> pack = 4
    fi
}

/* ---- A writer: src/repo/session.rs, publish.rs ---------------------------------------------------------- */

#define own (me + 1)            /* the number of the pack that a session writes */

/* What a session relies on in no case. */
#ifdef NO_AVOID_DISTRUSTED
#define suspect unvouched
#elif defined(NO_AVOID_UNVOUCHED)
#define suspect distrusted
#else
#define suspect (distrusted | unvouched)
#endif

inline store() {
#ifdef NO_I1_PACK
    own_index = own_index | bit(own);
#else
    packs = packs | bit(own);
#ifndef NO_I1_INDEX
    if
    :: atomic { names[me] != NONE -> goto end }      /* check_alive: it was fenced */
    :: atomic { names[me] == NONE -> skip }
    fi;
    own_index = own_index | bit(own);
#endif
#endif
    relied = own
}

proctype Writer(byte me; bool can_read) {
    byte at, avoid, seen, relied;

#ifndef NO_REGISTER_FIRST
    d_step { sessions = sessions | bit(me) }
#endif
#ifndef NO_READ_BEFORE_RELY
    d_step { at = gen; avoid = condemned | suspect }
#endif
    seen = indexed;
#ifdef NO_READ_BEFORE_RELY
    avoid = 0;
    if
    :: atomic { seen -> one_of(seen, relied) }
    fi;
    at = gen;
#endif
#ifdef NO_REGISTER_FIRST
    d_step { sessions = sessions | bit(me) }
#endif
#ifdef NO_HONEST_BEAT
    beat[me] = gen;
#else
    beat[me] = at;
#endif
#ifdef NO_AVOID_CONDEMNED
    avoid = 0;
#endif
#ifndef NO_READ_BEFORE_RELY
    if
    :: atomic { (seen & ~avoid) -> one_of((seen & ~avoid), relied) }
    :: store()                                       /* its cache is behind, or no copy is usable */
    fi;
#endif
    /* Commit. */
#ifndef NO_REREAD
    do
    :: atomic { gen == at -> break }
    :: atomic { gen != at -> at = gen; avoid = condemned | suspect; seen = indexed;
#ifdef NO_AVOID_CONDEMNED
        avoid = 0;
#endif
        if
        :: can_read && relied != own && has(avoid, relied) && (packs & whole) -> skip
        :: can_read && relied != own && has(avoid, relied) && !(packs & whole) -> goto end
        :: !can_read || relied == own || !has(avoid, relied) -> goto again
        fi };
        if
        :: atomic { (seen & ~avoid & ~bit(own)) -> one_of((seen & ~avoid & ~bit(own)), relied) }
        :: store()
        fi;
again:  skip
    od;
#endif
#ifndef NO_I5
    if
    :: atomic { !has(packs, relied) -> goto end }
    :: atomic { has(packs, relied) -> skip }
    fi;
#endif
    seen = 0; avoid = 0; at = 0;
    if
#ifdef NO_EXCLUSIVE_MANIFEST
    :: atomic { true -> names[me] = MANIFEST; relied = 0; safe() }
#else
    :: atomic { names[me] == NONE -> names[me] = MANIFEST; relied = 0; safe() }
    :: atomic { names[me] != NONE -> goto end }
#endif
#ifdef LOST_ANSWERS
    :: true ->                                       /* an error; the request may take effect later, or never */
#ifndef NO_UNCLEAR
        if
        :: atomic { names[me] == NONE -> names[me] = FENCE; sessions = sessions & ~bit(me) }
        :: skip                                      /* that fails, too: the session object stays */
        fi;
#else
        sessions = sessions & ~bit(me);
#endif
        if
        :: atomic { names[me] == NONE -> names[me] = MANIFEST; safe() }
        :: atomic { names[me] != NONE -> skip }
        fi;
        goto end
#endif
    fi;
#ifdef NO_I1_PACK
    packs = packs | bit(own);
#endif
#ifdef NO_I1_INDEX
    own_index = own_index | bit(own);
#endif
    d_step { sessions = sessions & ~bit(me) };
end: skip
}

/* ---- forget: src/ops/forget.rs --------------------------------------------------------------------------- */

proctype Forget() {
#ifdef NO_I3_FORGET
    d_step { packs = packs & ~bit(0); safe() }
#endif
    first = 0
}

#if SCENARIO == 10
/* A forget that removes one of two snapshots of a series, and what an earlier one left. */
proctype ForgetOne(byte chosen) {
    byte at, gone, there, going;

#ifdef NO_FORGET_READS_GENERATION_FIRST
    there = series;
#endif
plan:
    atomic { at = gen; gone = forgotten };
#ifndef NO_FORGET_READS_GENERATION_FIRST
    there = series;                                   /* each manifest is read */
#endif
    atomic {
        gone = gone & there;
#ifdef NO_FORGOTTEN_COUNT_AS_GONE
        gone = 0;
#endif
        if
        :: (there & ~gone) == 3 -> going = chosen
        :: (there & ~gone) != 3 -> going = 0
        fi
    };
    if
    :: atomic { !going -> skip }
#ifdef NO_FORGET_PUBLISHES
    :: atomic { going -> skip }
#else
#ifdef NO_FORGET_PLANS_AGAIN
    :: d_step { going ->
#else
    :: atomic { going && gen != at -> goto plan }
    :: d_step { going && gen == at ->
#endif
        gen++;
        forgotten = gone | going;
#ifdef NO_FORGET_CARRIES_CONDEMNED
        condemned = 0; since[0] = 0; since[1] = 0; since[2] = 0; since[3] = 0; since[4] = 0;
#endif
#ifdef NO_FORGET_CARRIES_JUDGED
        judged = 0
#endif
        }
#endif
    fi;
    going = going | gone; at = 0; gone = 0; there = 0;
    if
    :: atomic { has(going, 0) -> first = 0; assert(series) }
    :: atomic { !has(going, 0) -> skip }
    fi;
    if
    :: atomic { has(going, 1) -> second = 0; assert(series) }
    :: atomic { !has(going, 1) -> skip }
    fi;
    going = 0
}
#endif

/* ---- prune: src/ops/prune.rs, fence.rs ------------------------------------------------------------------- */

#define others (15 & ~bit(me))

/* The other sessions of a listing that have not ended: live, and the oldest generation that they know of.
 * Any of them may be taken for dead: clocks are not trusted. */
#define ended(n) (!has(live, n) || names[n] != NONE || !has(sessions, n))

inline skip_ended() {
    do
    :: other < 4 && ended(other) -> other++
    :: other == 4 || !ended(other) -> break
    od
}

inline judge() {
    atomic { other = 0; known = 255; skip_ended() };
    do
    :: atomic { other < 4 ->
        if
        :: ended(other)
        :: !ended(other) && told(other) < known -> known = told(other)
        :: !ended(other) && told(other) >= known
#ifdef NO_FENCE
        :: !ended(other)
#else
        :: !ended(other) -> names[other] = FENCE
#endif
        fi;
        other++;
        skip_ended() }
    :: atomic { other == 4 -> other = 0; live = 0;
        doomed = going;
#ifndef NO_WAIT
        do
        :: other < 5 && since[other] > known -> doomed = doomed & ~bit(other); other++
        :: other < 5 && since[other] <= known -> other++
        :: other == 5 -> other = 0; break
        od;
#endif
        known = 0;
        break }
    od
}

#define held (replaced[0] | replaced[1])

/* Takes packs out of the index (I7). Index objects are numbered: own_index, then new_index from 5 on. */
inline publish_new() {
    if
    :: !keep
    :: keep && !new_index[0] && !has(held, 5) -> new_index[0] = keep
    :: keep && !new_index[1] && !has(held, 6) -> new_index[1] = keep
    :: keep && !new_index[2] && !has(held, 7) -> new_index[2] = keep
    :: keep && !new_index[3] && !has(held, 8) -> new_index[3] = keep
    :: else -> assert(false)                          /* the model is too small */
    fi;
    keep = 0
}

inline delete_old() {
    own_index = own_index & ~replaced[me - 2];
    if :: has(replaced[me - 2], 5) -> new_index[0] = 0 :: else fi;
    if :: has(replaced[me - 2], 6) -> new_index[1] = 0 :: else fi;
    if :: has(replaced[me - 2], 7) -> new_index[2] = 0 :: else fi;
    if :: has(replaced[me - 2], 8) -> new_index[3] = 0 :: else fi;
    replaced[me - 2] = 0
}

#define take(n) if :: new_index[n] & without -> keep = keep | new_index[n]; replaced[me - 2] = replaced[me - 2] | bit(n + 5) :: else fi

inline rewrite(without) {
    d_step {
        replaced[me - 2] = own_index & without;
        keep = own_index & without;
        take(0); take(1); take(2); take(3);
        keep = keep & ~(without)
    };
#ifdef NO_I7
    d_step { delete_old(); safe() };
    d_step { publish_new() }
#else
    if
    :: atomic { keep -> publish_new() }
    :: atomic { !keep -> skip }
    fi;
    d_step { delete_old(); safe() }
#endif
}

inline skip_gone(which) {
    do
    :: other < 5 && !has(which & packs, other) -> other++
    :: other == 5 || has(which & packs, other) -> break
    od
}

inline remove(which) {
    atomic { other = 0; skip_gone(which) };
    do
    :: atomic { other < 5 -> packs = packs & ~bit(other); other++; safe(); skip_gone(which) }
    :: atomic { other == 5 -> other = 0; break }
    od
}

#ifdef NO_MARK_FORGOTTEN
#define needed (published & ~(forgotten & 1))
#else
#define needed published
#endif

#define sound (old & ~flawed)   /* of the copies that the survey knows */

/* What was judged by the generation that was surveyed holds in the newest one. */
#ifdef NO_JUDGED
#define stands true
#else
#define stands (judged <= at)
#endif

#define CONDEMN_UNUSED 0
#define CONDEMN_REPACKED 1

proctype Prune(byte me; byte rounds; bool repacks) {
    byte live, other, known;
    byte listed, surveyed, at, before, marked, going, ghosts, doomed, phase, old, pack, keep;
    byte flawed;                                      /* copies that are known to be damaged */
    bool stored;

#if SCENARIO == 2
    if
    :: atomic { me == 3 -> first = 0 }                /* forget, then prune */
    :: atomic { me != 3 -> skip }
    fi;
#endif
begin:
    atomic { sessions = sessions | bit(me); names[me] = NONE; beat[me] = gen };

    /* Survey: packs, sessions, snapshots, generation, index. The listings of sessions and snapshots may lag, so
     * that the packs of a session at work may be taken for a dead one's. */
    atomic {
        listed = packs;
        if
        :: live = sessions & others
        :: live = 0                                   /* it lags */
        fi;
        if
        :: surveyed = needed
        :: surveyed = needed & 1                      /* it lags */
#ifdef NO_I6
        :: surveyed = needed & ~1                     /* cut short */
#endif
        fi
    };
#ifdef ALIKE
    d_step { (me == 2 || one_began) -> one_began = 1; at = gen; before = condemned };
#else
    d_step { at = gen; before = condemned; flawed = distrusted };
#endif
    atomic {
        /* Of the living ones, their packs are left alone. */
        doomed = bit(own);
        other = 0;
        do
        :: other < 4 && has(live, other) && names[other] == NONE -> doomed = doomed | bit(other + 1); other++
        :: other < 4 && !(has(live, other) && names[other] == NONE) -> other++
        :: other == 4 -> other = 0; break
        od;
        live = 0;
        old = indexed;
#ifdef NO_LISTING_INDEX
        if
        :: skip
        :: old = old & bit(0)
        fi;
#endif
        ghosts = old & ~packs;
        old = old & packs;
        old = old & ~emptied;
#ifdef NO_MISSING_BY_NAME
        if
        :: skip
        :: old = 0                                    /* the second listing of packs is old */
        fi;
#endif
        listed = listed & ~doomed;                    /* candidates */
count:
        if
        :: !surveyed -> marked = 0
#ifdef NO_STAY_CONDEMNED
        :: surveyed && sound -> one_of(sound, pack); marked = bit(pack);
            before = before & ~marked                 /* pardoned */
#else
        :: surveyed && (sound & ~before) -> one_of((sound & ~before), pack); marked = bit(pack)
#ifdef NO_SURVEY_KEEPS_CONDEMNED
        :: surveyed && sound && !(sound & ~before) -> one_of(sound, pack); marked = bit(pack)
#else
        :: surveyed && sound && !(sound & ~before) -> marked = sound
#endif
#endif
        /* I6: a needed chunk is in no pack. Where only a write-only slot says that it is needed,
         * prune goes on, unless a pack that no index lists has the chunk. */
        :: surveyed && !sound && ((surveyed & ~claims) || (listed & ~indexed)) -> goto end
        :: surveyed && !sound && !(surveyed & ~claims) && !(listed & ~indexed) -> marked = 0
        fi;
        going = listed & ~marked;
        stored = false;
        doomed = 0; pack = 0;
#ifndef DAMAGE
        old = 0;
#endif
        phase = CONDEMN_UNUSED
    };
#ifdef DAMAGE
    /* Verify: where another copy is to go, the one that is counted on is read. */
    if
    :: atomic { !marked || !(going & ~emptied) -> skip }
#ifdef NO_VERIFY
    :: atomic { marked && going -> skip }
#else
    :: atomic { marked && going && (marked & ~packs) -> goto end }
    :: atomic { marked && going && !(marked & ~packs) && !(marked & ~whole) -> skip }
    :: atomic { marked && going && !(marked & ~packs) && (marked & ~whole) ->
        flawed = flawed | (marked & ~whole);
        goto count }
#ifdef NO_UNREAD_STAYS
    :: atomic { marked && going -> skip }             /* the storage does not give it for now */
#else
    :: atomic { marked && going -> going = 0 }        /* the storage does not give it for now */
#endif
#endif
    fi;
    old = 0;
#endif
    if
    :: atomic { ghosts -> skip }; rewrite(ghosts)
    :: atomic { !ghosts -> skip }
    fi;

condemn:
    if
    :: atomic { !going -> goto deleted }
    :: atomic { going && gen != at && !stands -> goto end }  /* another prune published meanwhile */
#if SCENARIO == 10
    :: d_step { going && gen != at && stands -> at = gen; before = condemned }  /* a forget did */
#endif
    :: atomic { going && gen == at -> 
#ifdef NO_CARRY_OVER
        before = 0
#else
        before = before & (packs | ghosts)
#endif
       }
    fi;
#ifndef NO_CONDEMN_FIRST
    /* Even when all are condemned already: of two prunes that judged by one generation, one may delete. */
    if
#ifdef NO_ONE_OF_TWO
    :: atomic { !(going & ~before) -> skip }
#endif
#ifdef NO_EXCLUSIVE_GENERATION
    :: d_step { true ->
#else
    :: atomic { gen != at && !stands -> goto end }
#if SCENARIO == 10
    :: atomic { gen != at && stands -> goto condemn }
#endif
    :: d_step { gen == at ->
#endif
        at++;
        gen = at;
#ifdef DAMAGE
#ifdef NO_CARRY_DISTRUSTED
        distrusted = 0;
#else
        distrusted = flawed & packs;
#endif
#endif
#if SCENARIO == 10
        judged = at;
#ifdef NO_CARRY_FORGOTTEN
        forgotten = 0;
#else
        forgotten = forgotten & series;
#endif
#endif
        other = 0;
        do
        :: other < 5 && has(going & ~before, other) -> since[other] = at; other++
        :: other < 5 && !has(going & ~before, other) && !has(before, other) -> since[other] = 0; other++
        :: other < 5 && !has(going & ~before, other) && has(before, other) -> other++
        :: other == 5 -> break
        od;
        other = 0;
        before = before | going;
        condemned = before }
    fi;
#endif
    /* A canary in sessions/, then a listing that shows it: it is no older. */
    if
    :: atomic { true -> live = sessions & others }
#ifdef NO_LISTING_SESSIONS
    :: atomic { true -> live = 0 }
#endif
    fi;
    judge();
    /* Re-mark, with a canary in snapshots/. What a new snapshot needs, is needed in every pack. */
#ifndef NO_REMARK
    if
    :: atomic { doomed && (needed & ~surveyed) -> old = condemned; known = 1 }
    :: atomic { !doomed || !(needed & ~surveyed) -> skip }
#if defined(NO_LISTING_SNAPSHOTS) || defined(NO_I6)
    :: atomic { doomed -> skip }                      /* too old, or cut short */
#endif
    fi;
    if
    :: atomic { !known -> skip }
    :: atomic { known ->
        known = 0;
        live = indexed;
        live = live & ~emptied;
#ifdef NO_LISTING_INDEX
        if
        :: skip
        :: live = live & bit(0)
        fi;
#endif
        if
        :: !live -> goto end
#ifdef NO_REMARK_KEEPS_ALL
        :: live & ~old -> one_of((live & ~old), pack); doomed = doomed & ~bit(pack)
        :: live && !(live & ~old) -> one_of(live, pack); doomed = doomed & ~bit(pack)
#else
        :: live -> doomed = doomed & ~live
#endif
        fi;
        live = 0; old = 0; pack = 0 }
    fi;
#endif
    if
    :: atomic { !doomed -> goto deleted }
    :: atomic { doomed && (doomed & marked) && !stored -> goto end }
    :: atomic { doomed && !((doomed & marked) && !stored) -> skip }
    fi;
#ifndef NO_I3_PRUNE
    rewrite(doomed);
    remove(doomed);
#else
    remove(doomed);
    rewrite(doomed);
#endif

deleted:
    atomic { doomed = 0; known = 0;
        if
        :: phase == CONDEMN_UNUSED && repacks && (marked & listed) -> skip
        :: !(phase == CONDEMN_UNUSED && repacks && (marked & listed)) -> goto end
        :: !(marked & before) -> goto end             /* nothing is worth repacking */
        fi };
    /* Repack: what is needed of the packs is stored again. */
    atomic { (packs & whole & indexed & ~bit(own)) -> packs = packs | bit(own) };
    if
    :: atomic { names[me] != NONE -> goto end }
    :: atomic { names[me] == NONE -> skip }
    fi;
    atomic { own_index = own_index | bit(own); going = marked & listed; stored = true; repacks = false;
        phase = CONDEMN_REPACKED };
    goto condemn;

end:
    atomic { sessions = sessions & ~bit(me); beat[me] = 0;
        live = 0; known = 0; listed = 0; surveyed = 0; at = 0; before = 0; marked = 0; going = 0; ghosts = 0;
        doomed = 0; phase = 0; old = 0; flawed = 0; pack = 0; other = 0; stored = false;
        rounds--;
        if
        :: rounds -> goto begin
        :: !rounds
        fi }
}

/* ---- restore: src/repo/reader.rs ------------------------------------------------------------------------- */

proctype Restore() {
    byte seen, tried, pack;
    bool again;

    if
    :: atomic { first -> skip }
    :: atomic { !first -> goto end }
    fi;
    seen = indexed;
    do
    :: atomic { (seen & ~tried) -> one_of((seen & ~tried), pack);
        tried = tried | bit(pack);
        if
        :: has(packs, pack) -> goto end
        :: !has(packs, pack) -> pack = 0
        fi }
#ifdef NO_I2
    :: atomic { !(seen & ~tried) -> break }
#else
    :: atomic { !(seen & ~tried) && !again -> seen = indexed;
        if
        :: seen & ~tried
        :: !(seen & ~tried) -> break
        fi;
#ifdef NO_I2_UNTIL_NOTHING_IS_NEW
        again = true
#endif
        }
    :: atomic { !(seen & ~tried) && again -> break }
#endif
    od;
    assert(!first);                                   /* a snapshot that is still there can be restored */
end: atomic { seen = 0; tried = 0; pack = 0; again = false }
}

/* ---- A hostile writer ----------------------------------------------------------------------------- */

#if SCENARIO == 9
/* It may create any object and replace heartbeats; it can't delete or sign for others. */
proctype Hostile() {
    own_index = own_index | bit(1);                   /* its pack pretends to hold the chunk */
#ifdef NO_CLAIMS_OF_OWN_PACKS
    belied = bit(0);                                  /* and it says that pack 0 does not hold it */
#endif
#ifdef NO_SIGNED_GENERATIONS
    d_step { gen++; condemned = 0; since[0] = 0; since[1] = 0; since[2] = 0; since[3] = 0 }
#endif
    if
    :: atomic { names[1] == NONE -> names[1] = FENCE }
    :: atomic { names[1] != NONE -> skip }
    fi
}
#endif

/* ---- A request that takes effect late: an index object of a session whose process is dead ---------------- */

proctype LateIndex() {
    own_index = own_index | bit(1)
}

/* ---- Scenarios ------------------------------------------------------------------------------------------- */

init {
    atomic {
        packs = bit(0);
        own_index = bit(0);
        first = 1;
#if SCENARIO == 1
        /* Writers of both kinds, and answers that get lost, while prune works. */
        run Writer(0, true);
        run Writer(1, false);
        run Prune(2, 1, false);
        run Forget()
#elif SCENARIO == 2
        /* Two prunes at once, one of them after a forget; a writer; a session that died when it had stored a pack. */
        packs = bit(0) | bit(1);
        own_index = bit(0) | bit(1);
        sessions = bit(0);
        run Writer(1, true);
        run Prune(2, 1, false);
        run Prune(3, 1, false)
#elif SCENARIO == 3
        /* A prune that sleeps, while another works twice; nothing is needed at first. */
        first = 0;
        run Writer(1, true);
        run Prune(2, 1, false);
        run Prune(3, 2, false)
#elif SCENARIO == 4
        /* A restore, while a prune repacks. */
        run Writer(0, true);
        run Prune(2, 1, true);
        run Restore();
        run Forget()
#elif SCENARIO == 5
        /* Two prunes that repack and rewrite one index object at once. */
        packs = bit(0) | bit(1);
        own_index = 0;
        new_index[3] = bit(0) | bit(1);
        run Prune(2, 1, true);
        run Prune(3, 1, true);
        run Forget()
#elif SCENARIO == 6
        /* A prune that runs twice, and a dead session whose index object appears late. */
        packs = bit(0) | bit(1);
        sessions = bit(0);
        run Writer(1, true);
        run Prune(2, 2, false);
        run LateIndex();
        run Forget()
#elif SCENARIO == 7
        /* The pack that a snapshot needs is condemned already. A dead session stored its chunk again; the index
         * object of that pack appears late, between two prunes. */
        packs = bit(0) | bit(1);
        condemned = bit(0);
        since[0] = 1;
        gen = 1;
        run Prune(2, 1, false);
        run Prune(3, 1, false);
        run LateIndex()
#elif SCENARIO == 8
        /* Two copies, that in pack 1 is rotten. Either nobody knows it, and two prunes repack; or a
         * check has published it, the whole copy is condemned, and there are a writer, a prune that
         * runs twice, forget, and the session of the rotten pack, which died. */
        packs = bit(0) | bit(1);
        own_index = bit(0) | bit(1);
        whole = ~bit(1);
        if
        :: run Prune(2, 1, true); run Prune(3, 1, true)
        :: distrusted = bit(1); condemned = bit(0); since[0] = 1; gen = 1; sessions = bit(0);
            run Writer(1, true); run Prune(2, 2, false); run Forget()
        fi
#elif SCENARIO == 9
        /* An honest writer of either kind, a prune that repacks, forget, and a hostile writer with
         * session 0 and pack 1. The whole copy may be condemned already. */
        packs = bit(0) | bit(1);
        whole = ~bit(1);
        sessions = bit(0);
        gen = 1;
        if
        :: skip
        :: condemned = bit(0); since[0] = 1
        fi;
        if
        :: run Writer(1, true)
        :: claims = bit(2); run Writer(1, false)
        fi;
        if
        :: skip
        :: foreign = bit(1)
        fi;
        run Prune(2, 1, true);
        run Hostile();
        run Forget()
#elif SCENARIO == 10
        /* Two forgets that each leave one of two snapshots, and two prunes. */
        packs = bit(0) | bit(1);
        own_index = bit(0) | bit(1);
        second = 1;
        run ForgetOne(bit(0));
        run ForgetOne(bit(1));
        run Prune(2, 1, false);
        run Prune(3, 1, false)
#endif
    }
}
