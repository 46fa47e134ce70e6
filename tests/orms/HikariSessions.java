// HikariCP over pgjdbc, called as Hibernate does (autocommit off, isolation and read-only set and put back), two pools of one connection
// each, taking turns. Knows their API; is told where to go by PGHOST and its like.
import com.zaxxer.hikari.*;
import java.sql.*;

public class HikariSessions {
    static HikariDataSource open(String zone, boolean readOnly) {
        var env = System.getenv();
        var config = new HikariConfig();
        config.setJdbcUrl("jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE")
            + "?sslmode=disable&readOnlyMode=always");
        config.setUsername(env.get("PGUSER"));
        config.setPassword(env.get("PGPASSWORD"));
        config.setMaximumPoolSize(1);
        config.setAutoCommit(false);
        config.setReadOnly(readOnly);
        config.setTransactionIsolation("TRANSACTION_REPEATABLE_READ");
        config.setConnectionTimeout(10_000);
        return new HikariDataSource(config);
    }

    static void check(boolean holds, String what) { if (!holds) throw new AssertionError(what); }

    static String one(Connection db, String sql, int... values) throws SQLException {
        try (var statement = db.prepareStatement(sql)) {
            for (int n = 0; n < values.length; n++) statement.setInt(n + 1, values[n]);
            try (var rows = statement.executeQuery()) { rows.next(); return rows.getString(1); }
        }
    }

    public static void main(String[] arguments) throws Exception {
        int transactions = Integer.parseInt(System.getenv("TRANSACTIONS"));
        HikariDataSource[] pools = { open("Asia/Tokyo", false), open("America/Lima", true) };
        for (int turn = 0; turn < transactions; turn++) {
            for (int number = 0; number < 2; number++) {
                try (var db = pools[number].getConnection()) {
                    check(one(db, "SELECT ?::int * 2", turn).equals("" + turn * 2), "double");
                    check(one(db, "SHOW transaction_isolation").equals("repeatable read"), "isolation");
                    check(one(db, "SHOW transaction_read_only").equals(number == 1 ? "on" : "off"), "read only");
                    db.commit();
                    if (turn % 10 == 0) {
                        db.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE); // put back by Hikari on close
                        check(one(db, "SHOW transaction_isolation").equals("serializable"), "changed isolation");
                        db.rollback();
                        check(db.isValid(5), "valid");
                    }
                }
            }
        }
        for (var pool : pools) pool.close();
    }
}
