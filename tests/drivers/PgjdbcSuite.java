// pgjdbc. Knows its API; is told where to go by PGHOST and its like.
import java.io.*;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import org.postgresql.PGConnection;

public class PgjdbcSuite {
    static Connection connect(String more) throws SQLException {
        var env = System.getenv();
        var url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE")
            + "?sslmode=" + env.get("PGSSLMODE") + more;
        return DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"));
    }

    static int one(Connection db, String sql, int... values) throws SQLException {
        try (var statement = db.prepareStatement(sql)) {
            for (int n = 0; n < values.length; n++) statement.setInt(n + 1, values[n]);
            try (var rows = statement.executeQuery()) { rows.next(); return rows.getInt(1); }
        }
    }

    static void check(boolean holds, String what) { if (!holds) throw new AssertionError(what); }

    interface Work { void run() throws Exception; }

    static String state(Work work) throws Exception {
        try { work.run(); return "none"; } catch (SQLException error) { return error.getSQLState(); }
    }

    static void session(String mode) throws Exception {
        try (var db = connect(mode)) {
            check(one(db, "SELECT 1") == 1, "one");
            check(one(db, "SELECT ?::int + ?", 1, 2) == 3, "sum");
            var plain = db.createStatement();
            plain.execute("DROP TABLE IF EXISTS notes; CREATE TABLE notes (id int PRIMARY KEY, text text)");
            db.setAutoCommit(false);
            plain.execute("INSERT INTO notes VALUES (1, 'one')");
            var before = db.setSavepoint();
            check(state(() -> plain.execute("INSERT INTO notes VALUES (1, 'again')")).equals("23505"), "duplicate");
            db.rollback(before);
            db.commit();
            plain.execute("INSERT INTO notes VALUES (2, 'two')");
            db.rollback();
            db.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            check(one(db, "SELECT count(*) FROM notes") == 1, "rolled back");
            db.commit();
            try (var batch = db.prepareStatement("INSERT INTO notes VALUES (?, 'many')")) {
                for (int n = 5000; n < 5500; n++) { batch.setInt(1, n); batch.addBatch(); }
                check(batch.executeBatch().length == 500, "batch");
            }
            db.commit();
            try (var paged = db.prepareStatement("SELECT * FROM notes")) {
                paged.setFetchSize(50); // portals with row limits
                int seen = 0;
                for (var rows = paged.executeQuery(); rows.next();) seen++;
                check(seen == 501, "paged " + seen);
            }
            db.commit();
            db.setAutoCommit(true);
            // A name on the server from the fifth use on, where the mode has any.
            try (var often = db.prepareStatement("SELECT text FROM notes WHERE id = ?")) {
                for (int n = 0; n < 20; n++) {
                    often.setInt(1, 1);
                    try (var rows = often.executeQuery()) { rows.next(); check(rows.getString(1).equals("one"), "one"); }
                }
            }
            var copy = db.unwrap(PGConnection.class).getCopyAPI();
            var lines = new StringBuilder();
            for (int n = 10; n < 2010; n++) lines.append(n).append("\tx\n");
            check(copy.copyIn("COPY notes FROM STDIN", new StringReader(lines.toString())) == 2000, "copied in");
            check(copy.copyOut("COPY notes TO STDOUT", new StringWriter()) == 2501, "copied out");
            check(state(() -> copy.copyIn("COPY notes FROM STDIN", new StringReader("x\ty\n"))).equals("22P02"), "bad copy");
            check(state(() -> plain.execute("SELECT 1/0")).equals("22012"), "division");
            try (var slow = db.createStatement()) {
                var timer = Executors.newSingleThreadScheduledExecutor();
                timer.schedule(() -> { slow.cancel(); return null; }, 300, TimeUnit.MILLISECONDS);
                check(state(() -> slow.execute("SELECT pg_sleep(30)")).equals("57014"), "cancel");
                timer.shutdown();
            }
            check(one(db, "SELECT 1") == 1, "alive");
        }
    }

    public static void main(String[] arguments) throws Exception {
        session("");
        session("&preferQueryMode=simple");
        session("&preferQueryMode=extendedCacheEverything");
        session("&prepareThreshold=0");
        var workers = Executors.newFixedThreadPool(10);
        var all = new ArrayList<Future<?>>();
        for (int worker = 0; worker < 10; worker++) {
            int n = worker;
            all.add(workers.submit(() -> {
                try (var db = connect("&ApplicationName=worker" + n)) {
                    db.setAutoCommit(false);
                    for (int turn = 0; turn < 20; turn++) {
                        check(one(db, "SELECT ?::int * 2", n) == n * 2, "twice");
                        db.commit();
                    }
                }
                return null;
            }));
        }
        for (var done : all) done.get();
        workers.shutdown();
    }
}
